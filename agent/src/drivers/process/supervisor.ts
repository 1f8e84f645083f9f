import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import { Socket } from "node:net";
import { join } from "node:path";
import { CgroupPen } from "./cgroup.ts";
import { StreamCapture, createCounters, streams, type Stream } from "./capture.ts";
import { Mask } from "./mask.ts";
import { formsOf } from "./secret-forms.ts";
import { makeSecretFiles, NoPlace, removeSecretFiles } from "./secret-files.ts";
import { bootId, processesOf, readProcess, signal } from "./procfs.ts";
import { exitCodes, files, parseSpec, secretsDirName } from "./run-folder.ts";
import type { Exit, Spec, SpecSecrets, Stopped } from "./run-folder.ts";

/*
 * Runs one program and outlives the agent: `node supervisor.js <run folder>`, the spec as JSON on stdin.
 * Its own session, no dependencies. Making the run folder is the start: it can be made only once, so one handle is
 * started at most once; whoever makes it first (an agent that fences a lost start, too) has decided.
 * SIGTERM asks it to stop the program: TERM, a grace, KILL, for everything that belongs to the run.
 */

const drainMs = 2_000;
const killRoundMs = 50;
const killRoundsMax = 200;

function syncFolder(path: string): void {
  const fd = fs.openSync(path, "r");
  fs.fsyncSync(fd);
  fs.closeSync(fd);
}

function writeDurably(path: string, text: string): void {
  const fd = fs.openSync(path, "wx", 0o600);
  fs.writeSync(fd, text);
  fs.fsyncSync(fd);
  fs.closeSync(fd);
}

/**
 * Everything that must be on disk before the program starts; throws when it cannot be.
 * The supervisor's own record comes last: a folder without it proves that nothing was started.
 */
function prepare(folder: string, spec: Spec, secrets: SpecSecrets | undefined): void {
  if (secrets !== undefined) makeSecretFiles(folder, secrets.folder, filesOf(secrets));
  if (spec.script !== undefined) fs.writeFileSync(join(folder, files.script), spec.script, { mode: 0o700 });
  if (spec.stdin !== undefined) fs.writeFileSync(join(folder, files.stdin), spec.stdin, { mode: 0o600 });
  // Room for the exit record is taken now: a disk that fills up later cannot keep the exit code from being written.
  writeDurably(join(folder, files.exitDraft), "\0".repeat(4_096));
  const startTime = readProcess(process.pid)?.startTime ?? "";
  writeDurably(
    join(folder, files.supervisor),
    JSON.stringify({ pid: process.pid, startTime, bootId: bootId() }),
  );
  syncFolder(folder);
  syncFolder(join(folder, ".."));
}

interface Pipes {
  readonly childEnds: (number | "pipe")[];
  readonly readers: Socket[];
}

/**
 * Named pipes rather than the socket pairs of child_process: a program that opens /dev/stderr by name fails on a socket.
 * Without mkfifo, socket pairs.
 */
function openPipes(folder: string): Pipes {
  const paths = streams.map((stream) => join(folder, `${stream}.pipe`));
  const made = spawnSync("mkfifo", ["-m", "600", ...paths], { stdio: "ignore" });
  if (made.status !== 0) return { childEnds: ["pipe", "pipe"], readers: [] };
  const readers: Socket[] = [];
  const childEnds: number[] = [];
  for (const path of paths) {
    const readFd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
    childEnds.push(fs.openSync(path, fs.constants.O_WRONLY));
    readers.push(new Socket({ fd: readFd, readable: true, writable: false }));
    fs.unlinkSync(path);
  }
  return { childEnds, readers };
}

class Supervision {
  readonly #folder: string;
  readonly #spec: Spec;
  readonly #countersFd: number;
  readonly #captures: Record<Stream, StreamCapture>;
  /** Undefined where the run has no secrets: then nothing looks at its output. */
  readonly #masks: Record<Stream, Mask> | undefined;
  readonly #pen: CgroupPen;
  readonly #startedAt = performance.now();
  #child: ChildProcess | undefined;
  #stopped: Stopped = null;
  #killing: Promise<void> | undefined;
  #ended = false;

  /** `secrets` are kept by nobody once the program has started, but for what masks them in its output. */
  constructor(folder: string, spec: Spec, secrets: SpecSecrets | undefined) {
    const forms = secrets === undefined ? undefined : formsOf(valuesOf(secrets));
    this.#masks = forms && { stdout: new Mask(forms), stderr: new Mask(forms) };
    this.#folder = folder;
    this.#spec = spec;
    this.#countersFd = createCounters(folder);
    this.#captures = {
      stdout: new StreamCapture(folder, "stdout", this.#countersFd, spec.limits),
      stderr: new StreamCapture(folder, "stderr", this.#countersFd, spec.limits),
    };
    this.#pen = CgroupPen.open(spec.handle);
  }

  start(secrets: SpecSecrets | undefined): void {
    const { spec, folder } = { spec: this.#spec, folder: this.#folder };
    const stdin = openStdin(folder, spec, secrets);
    const pipes = openPipes(folder);
    let child: ChildProcess;
    try {
      child = this.#pen.inside(() =>
        spawn(spec.program, spec.args, {
          cwd: spec.cwd,
          env: environmentOf(spec, secrets),
          detached: true,
          stdio: [stdin, ...pipes.childEnds],
        }),
      );
    } catch (error) {
      this.#end({ spawnError: spawnMessage(spec.program, error) });
      return;
    }
    this.#child = child;
    for (const end of [stdin, ...pipes.childEnds]) if (typeof end === "number") fs.closeSync(end);
    const sources = pipes.readers.length > 0 ? pipes.readers : [child.stdout, child.stderr];
    const drained = streams.map((stream, index) => this.#capture(stream, sources[index] ?? null));
    const timer = setTimeout(() => this.stop("timeout"), spec.timeoutMs);
    child.once("error", (error) => {
      clearTimeout(timer);
      if (child.pid === undefined) this.#end({ spawnError: spawnMessage(spec.program, error) });
    });
    child.once("exit", (code, name) => {
      clearTimeout(timer);
      const runMs = Math.round(performance.now() - this.#startedAt);
      void this.#settle(drained).then(() => this.#end({ code, signal: name, runMs }));
    });
  }

  #capture(stream: Stream, source: NodeJS.ReadableStream | null): Promise<void> {
    if (source === null) return Promise.resolve();
    return new Promise((resolve) => {
      source.on("data", (chunk: Buffer) => {
        if (this.#ended) return;
        for (const piece of this.#masks?.[stream].push(chunk) ?? [chunk]) this.#captures[stream].write(piece);
      });
      source.once("error", () => resolve());
      source.once("end", resolve);
    });
  }

  /** The program has ended: finish killing if that was begun, then wait for the rest of its output, not for ever. */
  async #settle(drained: Promise<void>[]): Promise<void> {
    await this.#killing;
    let timer: NodeJS.Timeout | undefined;
    const waited = new Promise<void>((resolve) => (timer = setTimeout(resolve, drainMs)));
    await Promise.race([Promise.all(drained), waited]);
    clearTimeout(timer);
  }

  stop(why: "timeout" | "asked"): void {
    const pid = this.#child?.pid;
    if (this.#ended || pid === undefined || this.#killing !== undefined || this.#child?.exitCode !== null)
      return;
    if (this.#child.signalCode !== null) return;
    const byAgent = fs.existsSync(join(this.#folder, files.stop));
    this.#stopped = why === "timeout" ? "timeout" : byAgent ? "cancel" : "signal";
    this.#killing = this.#killAll(pid);
  }

  #members(leader: number): number[] {
    const marked = processesOf(leader, this.#spec.marker, [process.pid]);
    return [...new Set([...marked, ...this.#pen.members()])].filter((pid) => pid !== process.pid);
  }

  async #killAll(leader: number): Promise<void> {
    for (const pid of this.#members(leader)) signal(pid, "SIGTERM");
    const graceEnd = performance.now() + this.#spec.graceMs;
    while (performance.now() < graceEnd && this.#members(leader).length > 0) await pause(killRoundMs);
    for (let round = 0; round < killRoundsMax; round++) {
      this.#pen.kill();
      const left = this.#members(leader);
      if (left.length === 0) return;
      for (const pid of left) signal(pid, "SIGKILL");
      await pause(killRoundMs);
    }
  }

  #end(how: { spawnError: string } | { code: number | null; signal: string | null; runMs: number }): void {
    if (this.#ended) return;
    this.#ended = true;
    // Its secrets are gone before anybody hears that it has ended.
    removeSecretFiles(this.#folder);
    for (const stream of streams) {
      for (const piece of this.#masks?.[stream].end() ?? []) this.#captures[stream].write(piece);
    }
    const output = { stdout: this.#captures.stdout.end(), stderr: this.#captures.stderr.end() };
    const spawned = !("spawnError" in how);
    const exit: Exit = {
      code: spawned ? how.code : null,
      signal: spawned ? how.signal : null,
      runMs: spawned ? how.runMs : null,
      stopped: this.#stopped,
      spawnError: spawned ? null : how.spawnError,
      output,
    };
    fs.closeSync(this.#countersFd);
    this.#pen.remove();
    for (const name of [files.script, files.stdin]) fs.rmSync(join(this.#folder, name), { force: true });
    void this.#record(JSON.stringify(exit)).then(() => process.exit(0));
  }

  /** The exit record must reach the disk: a failing disk is asked again each second. */
  async #record(text: string): Promise<void> {
    const draft = join(this.#folder, files.exitDraft);
    for (;;) {
      try {
        const fd = fs.openSync(draft, fs.existsSync(draft) ? "r+" : "w+", 0o600);
        const length = fs.writeSync(fd, text, 0);
        fs.ftruncateSync(fd, length);
        fs.fsyncSync(fd);
        fs.closeSync(fd);
        fs.renameSync(draft, join(this.#folder, files.exit));
        syncFolder(this.#folder);
        return;
      } catch {
        await pause(1_000);
      }
    }
  }
}

function valuesOf({ env, stdin, files: listed }: SpecSecrets): string[] {
  const values = [
    ...Object.values(env),
    ...(stdin === undefined ? [] : [stdin]),
    ...listed.map(({ value }) => value),
  ];
  return values.filter((value) => value !== "");
}

/** Its name can be no binding's. */
const stdinFile = ".stdin";

function filesOf({ stdin, files: listed }: SpecSecrets): SpecSecrets["files"] {
  return stdin === undefined ? listed : [...listed, { path: stdinFile, value: stdin }];
}

/** A file, and no pipe: a program may open /dev/stdin by its name. A secret's is in memory, and by now it has no name any more. */
function openStdin(folder: string, spec: Spec, secrets: SpecSecrets | undefined): number | "ignore" {
  if (secrets?.stdin === undefined) {
    return spec.stdin === undefined ? "ignore" : fs.openSync(join(folder, files.stdin), "r");
  }
  const path = join(secrets.folder, stdinFile);
  const fd = fs.openSync(path, "r");
  fs.unlinkSync(path);
  return fd;
}

function environmentOf(spec: Spec, secrets: SpecSecrets | undefined): Record<string, string> {
  if (secrets === undefined) return spec.env;
  const folder = secrets.files.length > 0 ? { [secretsDirName]: secrets.folder } : {};
  return { ...spec.env, ...secrets.env, ...folder };
}

function spawnMessage(program: string, error: unknown): string {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "ENOENT") return `${program}: no such program (ENOENT)`;
  if (code === "EACCES") return `${program}: may not be executed (EACCES)`;
  return `${program}: ${error instanceof Error ? error.message : String(error)}`;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Tells the agent, if it still listens; a closed pipe means that it has died, which changes nothing here. */
function tell(word: string): void {
  try {
    fs.writeSync(1, `${word}\n`);
  } catch {
    // The agent is gone.
  }
}

function main(folder: string): void {
  let supervision: Supervision | undefined;
  let askedEarly = false;
  process.on("SIGTERM", () => {
    if (supervision === undefined) askedEarly = true;
    supervision?.stop("asked");
  });
  for (const name of ["SIGHUP", "SIGINT", "SIGPIPE"] as const) process.on(name, () => undefined);
  const parsed = parseSpec(fs.readFileSync(0, "utf8"));
  // Half a spec means that the agent died while handing it over: nothing has begun.
  if (parsed === undefined) process.exit(exitCodes.noSpec);
  const { secrets, ...spec } = parsed;
  try {
    fs.mkdirSync(folder, { mode: 0o700 });
  } catch (error) {
    const exists = error instanceof Error && "code" in error && error.code === "EEXIST";
    tell(exists ? "exists" : `failed ${String(error)}`);
    process.exit(exists ? exitCodes.handleExists : exitCodes.cannotPrepare);
  }
  try {
    supervision = new Supervision(folder, spec, secrets);
    prepare(folder, spec, secrets);
  } catch (error) {
    // Nothing was started; the folder stays, so that this handle can never start.
    removeSecretFiles(folder);
    tell(error instanceof NoPlace ? `refused ${error.message}` : `failed ${String(error)}`);
    process.exit(exitCodes.cannotPrepare);
  }
  tell("begun");
  supervision.start(secrets);
  if (askedEarly) supervision.stop("asked");
}

main(process.argv[2] ?? "");
