import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { appendFileSync } from "node:fs";

/** The user and group under which a child runs; needs root. */
export interface Account {
  readonly uid: number;
  readonly gid: number;
}

export interface CommandOptions {
  readonly env: NodeJS.ProcessEnv;
  readonly cwd?: string;
  readonly account?: Account | undefined;
  readonly input?: string;
  /** Both output streams are appended there as well. */
  readonly logFile?: string;
  readonly timeoutMs: number;
  /** Ends the command and all it started, and rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const outputBytesMax = 1_048_576;
const graceMs = 5_000;

/** Signals the child's whole process group; children are started as leaders of their own. */
export function signalGroup(child: ChildProcess, name: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, name);
  } catch {
    child.kill(name);
  }
}

function collect(child: ChildProcess, name: "stdout" | "stderr", logFile: string | undefined): () => string {
  const chunks: Buffer[] = [];
  let bytes = 0;
  child[name]?.on("data", (chunk: Buffer) => {
    if (logFile !== undefined) appendFileSync(logFile, chunk, { mode: 0o600 });
    bytes += chunk.length;
    if (bytes <= outputBytesMax) chunks.push(chunk);
  });
  return () => Buffer.concat(chunks).toString("utf8");
}

function spawnOptions(o: CommandOptions): Parameters<typeof spawn>[2] {
  return {
    env: o.env,
    cwd: o.cwd ?? "/",
    detached: true,
    stdio: ["pipe", "pipe", "pipe"],
    ...(o.account === undefined ? {} : { uid: o.account.uid, gid: o.account.gid }),
  };
}

/** Runs one program to its end. A non-zero exit is an answer, not an error; a program that cannot start is an error. */
export async function runCommand(
  program: string,
  args: readonly string[],
  o: CommandOptions,
): Promise<CommandResult> {
  o.signal?.throwIfAborted();
  const child = spawn(program, args, spawnOptions(o));
  const stdout = collect(child, "stdout", o.logFile);
  const stderr = collect(child, "stderr", o.logFile);
  child.stdin?.on("error", () => undefined);
  child.stdin?.end(o.input ?? "");
  let timedOut = false;
  let cut: NodeJS.Timeout | undefined;
  const end = (): void => {
    signalGroup(child, "SIGTERM");
    cut ??= setTimeout(() => signalGroup(child, "SIGKILL"), graceMs);
  };
  const timer = setTimeout(() => {
    timedOut = true;
    end();
  }, o.timeoutMs);
  o.signal?.addEventListener("abort", end, { once: true });
  try {
    const code = await new Promise<number>((resolve, reject) => {
      child.once("error", (cause) =>
        reject(new Error(`could not start ${program}: ${cause.message}`, { cause })),
      );
      child.once("close", (status) => resolve(status ?? 128));
    });
    o.signal?.throwIfAborted();
    if (timedOut) throw new Error(`${program} did not end within ${o.timeoutMs / 1_000} s`);
    return { code, stdout: stdout(), stderr: stderr() };
  } finally {
    clearTimeout(timer);
    clearTimeout(cut);
    o.signal?.removeEventListener("abort", end);
  }
}

/** As runCommand, but a non-zero exit is an error that holds the end of what the program said. */
export async function mustRun(
  program: string,
  args: readonly string[],
  o: CommandOptions,
): Promise<CommandResult> {
  const result = await runCommand(program, args, o);
  if (result.code === 0) return result;
  const said = (result.stderr.trim() || result.stdout.trim()).split("\n").slice(-8).join("\n");
  throw new Error(`${program} ${args.join(" ")} failed with exit ${result.code}: ${said}`);
}
