import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { closeSync } from "node:fs";
import type { Account } from "../system/child.ts";
import { openLog } from "../system/files.ts";
import { identityOf } from "../system/process-table.ts";
import type { ProcessIdentity } from "../system/process-table.ts";

/** A broker or a database that we may have started. */
export interface Server {
  readonly url: string;
  /** What was chosen, for messages: "private instance", "external", "container". */
  readonly origin: "external" | "private" | "container";
  /** The process that does the work; undefined when it is not ours or does not run. */
  main(): ProcessIdentity | undefined;
  /** Ports on the loopback address that this server holds while it runs. */
  ports(): readonly number[];
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Injects a fault: the signal goes to the working process and nothing is tidied up. */
  kill(signal: NodeJS.Signals): Promise<void>;
  /** Called when it ended without having been asked to. */
  onDeath(listener: () => void): void;
}

export interface Started {
  readonly child: ChildProcess;
  readonly identity: ProcessIdentity;
  readonly exited: Promise<number>;
}

// Open files: a node with the usual soft limit of 1024 hangs at about a thousand connections, and one with an
// unlimited number sizes its tables by it.
const openFilesMax = 65_536;
const raiseOpenFiles = `h=$(ulimit -Hn); if [ "$h" = unlimited ] || [ "$h" -gt ${openFilesMax} ]; then h=${openFilesMax}; fi; ulimit -Sn "$h" 2>/dev/null; exec "$@"`;

/** Starts a daemon in a session of its own, with its output appended to a file. */
export async function startDaemon(
  program: string,
  args: readonly string[],
  o: { env: NodeJS.ProcessEnv; cwd: string; output: string; account?: Account | undefined },
): Promise<Started> {
  const output = openLog(o.output);
  try {
    const child = spawn("/bin/sh", ["-c", raiseOpenFiles, "sh", program, ...args], {
      env: o.env,
      cwd: o.cwd,
      detached: true,
      stdio: ["ignore", output, output],
      ...(o.account === undefined ? {} : { uid: o.account.uid, gid: o.account.gid }),
    });
    const exited = new Promise<number>((resolve) => child.once("exit", (code) => resolve(code ?? 128)));
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", (cause) =>
        reject(new Error(`could not start ${program}: ${cause.message}`, { cause })),
      );
    });
    const identity = child.pid === undefined ? undefined : identityOf(child.pid);
    if (identity === undefined) throw new Error(`${program} ended at once; see ${o.output}`);
    return { child, identity, exited };
  } finally {
    closeSync(output);
  }
}
