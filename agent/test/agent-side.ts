import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** A folder that is removed at the end. */
export async function temporaryHome(): Promise<{ home: string; remove(): Promise<void> }> {
  const home = await mkdtemp(join(tmpdir(), "muster-agent-"));
  return { home, remove: () => rm(home, { recursive: true, force: true }) };
}

export interface Side {
  readonly child: ChildProcess;
  readonly lines: readonly string[];
  /** Kills it as a crash would and waits until it is gone. */
  crash(): Promise<void>;
}

/** Runs a program of this folder as a process of its own; `fileBytesMax` limits how large its files may grow. */
export function spawnSide(program: string, args: readonly string[], fileBytesMax?: number): Side {
  const file = fileURLToPath(new URL(`./${program}.js`, import.meta.url));
  const command = [process.execPath, file, ...args];
  const limited =
    fileBytesMax === undefined ? command : ["prlimit", `--fsize=${fileBytesMax}:unlimited`, ...command];
  const child = spawn(limited[0] ?? "", limited.slice(1), { stdio: ["ignore", "pipe", "inherit"] });
  const lines: string[] = [];
  let rest = "";
  child.stdout.on("data", (chunk: Buffer) => {
    const parts = (rest + chunk.toString()).split("\n");
    rest = parts.pop() ?? "";
    lines.push(...parts);
  });
  const gone = new Promise<void>((resolve) => child.once("close", () => resolve()));
  return {
    child,
    lines,
    crash: async () => {
      child.kill("SIGKILL");
      await gone;
    },
  };
}
