import { randomInt } from "node:crypto";
import { readFileSync, readdirSync, readlinkSync } from "node:fs";
import { connect, createServer } from "node:net";
import { programOf } from "./process-table.ts";

// Below the range from which the kernel takes client ports, so that a port we keep is not lost to an outgoing connection.
const lowestPort = 21_000;
const highestPort = 31_999;

export async function isPortFree(port: number, host = "127.0.0.1"): Promise<boolean> {
  const probe = createServer();
  return new Promise((resolve) => {
    probe.once("error", () => resolve(false));
    probe.listen({ port, host, exclusive: true }, () => probe.close(() => resolve(true)));
  });
}

export async function isPortOpen(port: number, host = "127.0.0.1", timeoutMs = 1_000): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host });
    const answer = (open: boolean): void => {
      socket.destroy();
      resolve(open);
    };
    socket.setTimeout(timeoutMs, () => answer(false));
    socket.once("connect", () => answer(true));
    socket.once("error", () => answer(false));
  });
}

/** One port per name: the kept one while it is free, else a free one; no port twice. */
export async function choosePorts<Name extends string>(
  names: readonly Name[],
  kept: Partial<Record<Name, number>>,
): Promise<Record<Name, number>> {
  const chosen: Partial<Record<Name, number>> = {};
  const taken = new Set<number>();
  for (const name of names) {
    let port = kept[name] ?? randomInt(lowestPort, highestPort + 1);
    for (let tries = 0; taken.has(port) || !(await isPortFree(port)); tries += 1) {
      if (tries > 2_000)
        throw new Error(`no free port between ${lowestPort} and ${highestPort} on 127.0.0.1`);
      port = randomInt(lowestPort, highestPort + 1);
    }
    taken.add(port);
    chosen[name] = port;
  }
  return chosen as Record<Name, number>;
}

function listeningInode(port: number): string | undefined {
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  for (const table of ["/proc/net/tcp", "/proc/net/tcp6"]) {
    let text: string;
    try {
      text = readFileSync(table, "latin1");
    } catch {
      continue;
    }
    for (const line of text.split("\n").slice(1)) {
      const fields = line.trim().split(/\s+/);
      if (fields[1]?.endsWith(wanted) === true && fields[3] === "0A") return fields[9];
    }
  }
  return undefined;
}

function holdsSocket(pid: string, inode: string): boolean {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`) === `socket:[${inode}]`;
      } catch {
        return false;
      }
    });
  } catch {
    return false;
  }
}

/** Who listens on a port, as far as this user may see it. */
export function portHolder(port: number): { pid: number; name: string } | undefined {
  const inode = listeningInode(port);
  if (inode === undefined) return undefined;
  const pid = readdirSync("/proc").find((name) => /^\d+$/.test(name) && holdsSocket(name, inode));
  return pid === undefined ? undefined : { pid: Number(pid), name: programOf(Number(pid)) };
}

export function describeHolder(port: number): string {
  const holder = portHolder(port);
  return holder === undefined ? "another user's process" : `pid ${holder.pid} (${holder.name})`;
}
