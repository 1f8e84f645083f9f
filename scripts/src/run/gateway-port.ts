import { describeHolder, isPortFree } from "../system/ports.ts";

const firstPort = 8_080;
const portsTried = 100;

async function isFree(port: number): Promise<boolean> {
  return (await isPortFree(port)) && (await isPortFree(port, "0.0.0.0"));
}

/** The port that was asked for, or the kept one, or 8080, or the next free one. */
export async function chooseGatewayPort(
  asked: string | undefined,
  kept: number | undefined,
  host: string,
): Promise<number> {
  if (asked !== undefined && asked !== "") {
    const port = Number(asked);
    if (!/^[0-9]+$/.test(asked) || port < 1 || port > 65_535) {
      throw new Error(`MUSTER_GATEWAY_PORT must be a whole number from 1 to 65535, not "${asked}"`);
    }
    if (!(await isPortFree(port, host))) {
      throw new Error(`port ${port} is taken by ${describeHolder(port)}; set MUSTER_GATEWAY_PORT or stop it`);
    }
    return port;
  }
  const candidates = Array.from({ length: portsTried }, (_, index) => firstPort + index);
  for (const port of kept === undefined ? candidates : [kept, ...candidates])
    if (await isFree(port)) return port;
  throw new Error(`no free port from ${firstPort} to ${firstPort + portsTried - 1}; set MUSTER_GATEWAY_PORT`);
}
