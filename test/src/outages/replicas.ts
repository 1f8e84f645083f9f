import { readFile } from "node:fs/promises";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { freePort, ManagedProcess } from "../processes.ts";
import type { ServiceName, System } from "../system.ts";

/** Another process of the same service with the same settings, on ports of its own; started and ready. */
export async function replicaOf(
  system: System,
  name: ServiceName,
  more: Readonly<Record<string, string>> = {},
): Promise<ManagedProcess> {
  const environment = await readFile(`/proc/${system.services[name].pid}/environ`, "utf8");
  const own = environment
    .split("\0")
    .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)] as const)
    .filter(([key]) => /^(MUSTER|AUTH)_/.test(key) && key !== "MUSTER_INTERNAL_PORT");
  const replica = new ManagedProcess({
    name: `${name}-2`,
    entry: `services/${name}/dist/src/main.js`,
    env: { ...Object.fromEntries(own), ...more },
    logFolder: system.folder,
    internalPort: await freePort(),
  });
  replica.start();
  await replica.ready();
  return replica;
}

export interface Balancer {
  readonly url: string;
  close(): Promise<void>;
}

/** Hands each new connection to the next address that takes it, as a balancer of connections does; bytes pass as they are. */
export async function openBalancer(urls: readonly string[]): Promise<Balancer> {
  const sockets = new Set<Socket>();
  let turn = 0;
  const keep = (socket: Socket): Socket => {
    sockets.add(socket);
    socket.on("error", () => socket.destroy());
    return socket.once("close", () => sockets.delete(socket));
  };
  const join = (near: Socket, tries: number): void => {
    const { hostname, port } = new URL(urls[turn++ % urls.length] ?? "");
    const far = connect({ host: hostname, port: Number(port) });
    far.once("error", () => (tries > 1 ? join(near, tries - 1) : near.destroy()));
    far.once("connect", () => {
      keep(far);
      near.pipe(far).pipe(near);
      near.once("close", () => far.destroy());
      far.once("close", () => near.destroy());
    });
  };
  const server = createServer({ allowHalfOpen: true }, (near) => join(keep(near), urls.length));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => {
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}
