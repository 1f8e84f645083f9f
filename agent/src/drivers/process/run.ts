import { spawn, type ChildProcess } from "node:child_process";
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { AlreadyStarted } from "../already-started.ts";
import { captureLimits, CaptureReader } from "./capture.ts";
import { lostOutcome, outcomeOf } from "./outcome.ts";
import { bootId, findByArgument, isAlive, processesOf, signal } from "./procfs.ts";
import { files, markerName, type Exit, type Spec } from "./run-folder.ts";
import { removeSecretFiles } from "./secret-files.ts";
import { StartRefused, type Outcome, type OutputSource, type Reattached, type Running } from "../driver.ts";

const supervisorFile = fileURLToPath(new URL("./supervisor.js", import.meta.url));
/** A supervisor only moves bytes: a small heap and no compiler threads keep it small beside the program. */
const nodeFlags = ["--max-old-space-size=32", "--max-semi-space-size=1", "--v8-pool-size=0"];
const pollMs = 250;
const stopRoundMs = 100;
const killRoundsMax = 50;

const totals = z.object({
  bytes_total: z.number(),
  bytes_kept: z.number(),
  truncated: z.boolean(),
  sha256: z.string(),
});
const exitRecord = z.object({
  code: z.number().nullable(),
  signal: z.string().nullable(),
  runMs: z.number().nullable(),
  stopped: z.enum(["timeout", "cancel", "signal"]).nullable(),
  spawnError: z.string().nullable(),
  output: z.object({ stdout: totals, stderr: totals }),
});
const supervisorRecord = z.object({ pid: z.number(), startTime: z.string(), bootId: z.string() });
type SupervisorRecord = z.infer<typeof supervisorRecord>;

async function readRecord<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  try {
    return schema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch {
    return undefined;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export function outputOf(folder: string, finished: () => boolean): OutputSource {
  const reader = new CaptureReader(folder, captureLimits);
  return { read: (stream, offset, bytesMax) => reader.read(stream, offset, bytesMax, finished()) };
}

/** Starts a supervisor for `spec` in `folder`; resolves when it has begun, durably. */
export async function launch(folder: string, spec: Spec): Promise<Running> {
  const command = [process.execPath, ...nodeFlags, supervisorFile, folder];
  const [program = "", ...args] = spec.secrets === undefined ? command : withoutCores(command);
  const child = spawn(program, args, {
    detached: true,
    stdio: ["pipe", "pipe", "ignore"],
    // Never the agent's own environment: its settings hold credentials.
    env: { PATH: spec.env["PATH"] ?? "/usr/bin:/bin" },
    cwd: "/",
  });
  // Listened for from the first moment: a short run has ended before its first word is read.
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const word = await firstWord(child, JSON.stringify(spec));
  if (word === "exists") throw new AlreadyStarted(`${spec.handle} has a run folder already`);
  if (word.startsWith("refused ")) throw new StartRefused("secret_refused", word.slice("refused ".length));
  if (word.startsWith("failed ")) throw new StartRefused("start_failed", word.slice("failed ".length));
  if (word !== "begun") {
    const found = await reattachRun(folder, spec.handle, spec.graceMs);
    if (found.state === "not_started") {
      throw new StartRefused("start_failed", "the supervisor could not be started");
    }
    return found.state === "running" ? found.running : settledRun(found.outcome, folder);
  }
  child.unref();
  return follow(folder, spec.handle, spec.graceMs, ended);
}

/**
 * As a program that leaves no core dump, nor does what it starts. One byte, where it can be said, and not none: of none a kernel
 * takes no notice that hands cores to a program (core(5)).
 */
function withoutCores(command: readonly string[]): string[] {
  const script = 'prlimit --core=1:1 --pid "$$" </dev/null || ulimit -c 0 || exit 71; exec "$@"';
  return ["/bin/sh", "-c", script, "sh", ...command];
}

function settledRun(outcome: Outcome, folder: string): Running {
  return {
    outcome: Promise.resolve(outcome),
    stop: () => undefined,
    leave: () => undefined,
    output: outputOf(folder, () => true),
  };
}

function firstWord(child: ChildProcess, spec: string): Promise<string> {
  return new Promise((resolve) => {
    let heard = "";
    child.once("error", () => resolve(""));
    // Not "exit": that can come before the last word has been read.
    child.once("close", () => resolve(heard.trim()));
    child.stdout?.on("data", (chunk: Buffer) => {
      heard += chunk.toString("utf8");
      const end = heard.indexOf("\n");
      if (end >= 0) resolve(heard.slice(0, end));
    });
    // A supervisor that refuses before it has read everything closes the pipe.
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(spec);
  });
}

/** Follows a supervisor to its end; `ended` settles sooner than polling would see it. */
function follow(folder: string, handle: string, graceMs: number, ended?: Promise<void>): Running {
  let finished = false;
  let asked = false;
  let left = false;
  const run = async (): Promise<Outcome> => {
    const record = await readRecord(join(folder, files.supervisor), supervisorRecord);
    if (ended !== undefined) await ended;
    else while (!left && record !== undefined && isAlive(record.pid, record.startTime)) await pause(pollMs);
    if (left) return new Promise(() => undefined);
    const exit = await readRecord<Exit>(join(folder, files.exit), exitRecord);
    const outcome = exit === undefined ? await loseRun(folder, handle, graceMs) : outcomeOf(exit, asked);
    finished = true;
    return outcome;
  };
  return {
    outcome: run(),
    stop: () => {
      if (asked || finished) return;
      asked = true;
      void askToStop(folder);
    },
    leave: () => {
      left = true;
    },
    output: outputOf(folder, () => finished),
  };
}

async function askToStop(folder: string): Promise<void> {
  // On a full disk the note is missing, the signal still counts.
  await writeFile(join(folder, files.stop), "cancel").catch(() => undefined);
  const record = await readRecord(join(folder, files.supervisor), supervisorRecord);
  if (record !== undefined && isAlive(record.pid, record.startTime)) signal(record.pid, "SIGTERM");
}

/** The supervisor died without a word: nobody keeps the time of what it left, so it is stopped; the effect is unknown. */
async function loseRun(folder: string, handle: string, graceMs: number): Promise<Outcome> {
  const members = (): number[] => processesOf(undefined, `${markerName}=${handle}`, [process.pid]);
  const survivors = members();
  for (const pid of survivors) signal(pid, "SIGTERM");
  const graceEnd = performance.now() + graceMs;
  while (performance.now() < graceEnd && members().length > 0) await pause(stopRoundMs);
  for (let round = 0; round < killRoundsMax && members().length > 0; round++) {
    for (const pid of members()) signal(pid, "SIGKILL");
    await pause(stopRoundMs);
  }
  removeSecretFiles(folder);
  return lostOutcome("supervisor_lost", survivors.length);
}

/** True while a supervisor is about to begin in this folder, or watches over what it started. */
export async function isSupervised(folder: string): Promise<boolean> {
  const record = await readRecord(join(folder, files.supervisor), supervisorRecord);
  if (record === undefined) return findByArgument(folder) !== undefined;
  return record.bootId === bootId() && isAlive(record.pid, record.startTime);
}

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined;
}

/** Makes the folder before a supervisor can: whoever makes it has decided whether the handle starts. */
async function fence(folder: string): Promise<boolean> {
  try {
    await mkdir(folder, { mode: 0o700 });
  } catch {
    return false;
  }
  await writeFile(join(folder, files.fenced), "").catch(() => undefined);
  return true;
}

/** Finds out what became of a handle after its agent died. */
export async function reattachRun(folder: string, handle: string, graceMs: number): Promise<Reattached> {
  if (await fence(folder)) return { state: "not_started" };
  let record: SupervisorRecord | undefined;
  for (;;) {
    record = await readRecord(join(folder, files.supervisor), supervisorRecord);
    if (record !== undefined) break;
    // A supervisor that is about to begin is waited for; without one nothing was started and nothing will be.
    if ((await exists(join(folder, files.fenced))) || findByArgument(folder) === undefined) {
      record = await readRecord(join(folder, files.supervisor), supervisorRecord);
      if (record === undefined) {
        removeSecretFiles(folder);
        return { state: "not_started" };
      }
      break;
    }
    await pause(pollMs);
  }
  const output = outputOf(folder, () => true);
  const sameBoot = record.bootId === bootId();
  if (sameBoot && isAlive(record.pid, record.startTime)) {
    return { state: "running", running: follow(folder, handle, graceMs) };
  }
  const exit = await readRecord<Exit>(join(folder, files.exit), exitRecord);
  if (exit !== undefined) return { state: "ended", outcome: outcomeOf(exit, false), output };
  const outcome = sameBoot ? await loseRun(folder, handle, graceMs) : lostOutcome("agent_restarted", 0);
  return { state: "ended", outcome, output };
}
