import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { eventuallyHolds } from "@muster/testing/eventually";

/** The checkout that is under test. */
export const repository = fileURLToPath(new URL("../../../", import.meta.url));

export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port was given");
  return address.port;
}

export interface ProcessOptions {
  readonly name: string;
  /** Path of the compiled entry, from the repository. */
  readonly entry: string;
  readonly args?: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly logFolder: string;
  /** Of its health, readiness and metrics; none for a program that ends by itself. */
  readonly internalPort?: number;
}

/** One process of the system, started as in production: compiled, with nothing but its own settings. */
export class ManagedProcess {
  readonly name: string;
  readonly #options: ProcessOptions;
  #child: ChildProcess | undefined;

  constructor(options: ProcessOptions) {
    this.name = options.name;
    this.#options = options;
  }

  get pid(): number {
    if (this.#child?.pid === undefined) throw new Error(`${this.name} is not running`);
    return this.#child.pid;
  }

  get internalUrl(): string {
    return `http://127.0.0.1:${this.#options.internalPort ?? 0}`;
  }

  get logFile(): string {
    return join(this.#options.logFolder, `${this.name}.log`);
  }

  get ended(): boolean {
    return this.#child === undefined || this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** Null while it runs, and after a signal ended it. */
  get exitCode(): number | null {
    return this.#child?.exitCode ?? null;
  }

  /** `more`: settings of this start alone. */
  start(more: Readonly<Record<string, string>> = {}): void {
    const { entry, args = [], env, internalPort } = this.#options;
    const log = createWriteStream(this.logFile, { flags: "a" });
    const child = spawn(process.execPath, [join(repository, entry), ...args], {
      cwd: "/",
      env: {
        PATH: process.env.PATH,
        HOME: process.env.HOME,
        MUSTER_LOG_LEVEL: "debug",
        ...(internalPort === undefined ? {} : { MUSTER_INTERNAL_PORT: String(internalPort) }),
        ...env,
        ...more,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    child.stdout.pipe(log);
    child.stderr.pipe(log);
    this.#child = child;
  }

  /** How it ended, the worst and the last of what it said that was not meant for debugging. */
  async lastWords(): Promise<string> {
    const { exitCode = null, signalCode = null } = this.#child ?? {};
    const lines = (await readFile(this.logFile, "utf8")).trim().split("\n");
    const worst = lines.filter((line) => line.includes('"level":"fatal"')).slice(-1);
    const last = lines.filter((line) => !line.includes('"level":"debug"')).slice(-3);
    return [`exit code ${exitCode}, signal ${signalCode}`, ...worst, ...last].join("\n");
  }

  /** Resolves when the process says that it is ready; fails at once when it ends before. */
  async ready(timeoutMs = 30_000): Promise<void> {
    await eventuallyHolds(async () => {
      if (this.ended) throw new Error(`${this.name} ended before it was ready: ${await this.lastWords()}`);
      const response = await fetch(`${this.internalUrl}/readyz`, { signal: AbortSignal.timeout(5_000) });
      if (!response.ok) throw new Error(`${this.name}: ${await response.text()}`);
    }, timeoutMs);
  }

  signal(name: NodeJS.Signals): void {
    this.#child?.kill(name);
  }

  /** Ends it and resolves with its exit code; null when a signal ended it. */
  async stop(name: NodeJS.Signals = "SIGTERM", timeoutMs = 30_000): Promise<number | null> {
    const child = this.#child;
    if (child === undefined || this.ended) return child?.exitCode ?? null;
    const exited = once(child, "exit");
    child.kill("SIGCONT");
    child.kill(name);
    const cut = setTimeout(() => child.kill("SIGKILL"), timeoutMs);
    await exited;
    clearTimeout(cut);
    return child.exitCode;
  }
}

/** Runs a program of the repository to its end and gives what it printed; fails with its log otherwise. */
export async function runToEnd(options: Omit<ProcessOptions, "logFolder">): Promise<string> {
  const child = spawn(process.execPath, [join(repository, options.entry), ...(options.args ?? [])], {
    cwd: "/",
    env: { PATH: process.env.PATH, HOME: process.env.HOME, ...options.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let out = "";
  let err = "";
  child.stdout.on("data", (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (err += chunk.toString()));
  const [code] = (await once(child, "close")) as [number | null];
  if (code !== 0) throw new Error(`${options.name} exited with ${code}: ${err}${out}`);
  return out;
}
