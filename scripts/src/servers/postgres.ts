import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { mustRun } from "../system/child.ts";
import { readJson, readTextOr, tailOf, writeJson } from "../system/files.ts";
import { choosePorts, describeHolder } from "../system/ports.ts";
import { isAlive, markerVariable, postgresProcessesIn, signal } from "../system/process-table.ts";
import type { ProcessIdentity } from "../system/process-table.ts";
import { pollUntil, stopProcesses, waitGone } from "../system/wait.ts";
import type { NamedAccount } from "./accounts.ts";
import type { PostgresBinaries } from "./binaries.ts";
import { startDaemon } from "./server.ts";
import type { Server, Started } from "./server.ts";

export interface PrivatePostgresOptions {
  /** Must be reachable by `account`. */
  readonly folder: string;
  readonly logFolder: string;
  readonly marker: string;
  readonly binaries: PostgresBinaries;
  readonly account: NamedAccount | undefined;
  readonly password: string;
  /** The password is a new one: it is set on data that are already there. */
  readonly passwordIsNew: boolean;
  /** False: a crash of the machine may lose data; for tests only. */
  readonly durable: boolean;
  readonly env: NodeJS.ProcessEnv;
  readonly log: (line: string) => void;
  readonly signal?: AbortSignal | undefined;
}

const adminRole = "postgres";
const databaseName = "muster";
const startTimeoutMs = 120_000;
const stopTimeoutMs = 20_000;
const connectionsMax = 300;

const stateSchema = z.object({ port: z.number().int().min(1).max(65_535) });

/** The major version that made the data; undefined where there are none. */
export function dataMajor(data: string): number | undefined {
  const text = readTextOr(join(data, "PG_VERSION"));
  return text === undefined ? undefined : Number(text.trim());
}

class PrivatePostgres implements Server {
  readonly origin = "private";
  readonly url: string;
  readonly #o: PrivatePostgresOptions;
  readonly #port: number;
  readonly #root: string;
  readonly #data: string;
  readonly #output: string;
  readonly #listeners: (() => void)[] = [];
  #server: Started | undefined;
  #stopping = false;

  constructor(o: PrivatePostgresOptions, port: number) {
    this.#o = o;
    this.#port = port;
    this.#root = join(o.folder, "postgres");
    this.#data = join(this.#root, "data");
    this.#output = join(o.logFolder, "postgres.log");
    this.url = `postgres://${adminRole}:${o.password}@127.0.0.1:${port}/${databaseName}`;
  }

  ports(): readonly number[] {
    return [this.#port];
  }

  main(): ProcessIdentity | undefined {
    const server = this.#server?.identity;
    return server !== undefined && isAlive(server) ? server : undefined;
  }

  onDeath(listener: () => void): void {
    this.#listeners.push(listener);
  }

  #environment(): NodeJS.ProcessEnv {
    return { ...this.#o.env, HOME: this.#root, PGDATA: this.#data, [markerVariable]: this.#o.marker };
  }

  #program(name: string): string {
    return join(this.#o.binaries.folder, name);
  }

  async #run(name: string, args: readonly string[], input = ""): Promise<string> {
    const { stdout } = await mustRun(this.#program(name), args, {
      env: this.#environment(),
      account: this.#o.account,
      input,
      logFile: this.#output,
      timeoutMs: 60_000,
      signal: this.#o.signal,
    });
    return stdout;
  }

  /** Makes the data folder beside its place and moves it there when it is whole: an interrupted start leaves none. */
  async #initialise(): Promise<void> {
    const fresh = join(this.#root, "data.new");
    const passwordFile = join(this.#root, "password");
    rmSync(fresh, { recursive: true, force: true });
    writeFileSync(passwordFile, `${this.#o.password}\n`, { mode: 0o600 });
    if (this.#o.account !== undefined) chownSync(passwordFile, this.#o.account.uid, this.#o.account.gid);
    try {
      const sync = this.#o.durable ? [] : ["--no-sync"];
      const fixed = ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8"];
      await this.#run("initdb", [
        "-D",
        fresh,
        "-U",
        adminRole,
        `--pwfile=${passwordFile}`,
        ...fixed,
        ...sync,
      ]);
      await this.#single(fresh, `CREATE DATABASE ${databaseName}`);
      renameSync(fresh, this.#data);
    } finally {
      rmSync(passwordFile, { force: true });
    }
  }

  /** One statement without a server and without a password; only possible while no server runs on the data. */
  async #single(data: string, statement: string): Promise<void> {
    await this.#run("postgres", ["--single", "-D", data, "template1"], `${statement}\n`);
  }

  async #prepareData(): Promise<void> {
    mkdirSync(this.#root, { recursive: true });
    chmodSync(this.#root, 0o700);
    if (this.#o.account !== undefined) chownSync(this.#root, this.#o.account.uid, this.#o.account.gid);
    const major = dataMajor(this.#data);
    if (major !== undefined && this.#o.binaries.major !== 0 && major !== this.#o.binaries.major) {
      const aside = join(this.#root, `data-${major}-${Date.now()}`);
      renameSync(this.#data, aside);
      this.#o.log(`PostgreSQL ${this.#o.binaries.major}: the data of ${major} was moved aside to ${aside}`);
    }
    // Workers of a server that was killed hold its shared memory: a new server refuses to start beside them.
    await stopProcesses(postgresProcessesIn(this.#data), "SIGQUIT", 5_000);
    rmSync(join(this.#data, "postmaster.pid"), { force: true });
    if (!existsSync(join(this.#data, "PG_VERSION"))) await this.#initialise();
    else if (this.#o.passwordIsNew) {
      await this.#single(this.#data, `ALTER ROLE ${adminRole} PASSWORD '${this.#o.password}'`);
    }
  }

  async start(): Promise<void> {
    this.#stopping = false;
    mkdirSync(this.#o.logFolder, { recursive: true });
    await this.#prepareData();
    const settings: Record<string, string> = {
      listen_addresses: "127.0.0.1",
      port: String(this.#port),
      unix_socket_directories: "",
      max_connections: String(connectionsMax),
      ...(this.#o.durable ? {} : { fsync: "off", synchronous_commit: "off", full_page_writes: "off" }),
    };
    const flags = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
    const server = await startDaemon(this.#program("postgres"), ["-D", this.#data, ...flags], {
      env: this.#environment(),
      cwd: "/",
      output: this.#output,
      account: this.#o.account,
    });
    this.#server = server;
    await this.#waitReady(server);
    void server.exited.then(() => this.#died(server));
  }

  async #waitReady(server: Started): Promise<void> {
    const ready = await pollUntil(
      () => {
        if (!isAlive(server.identity)) return "ended" as const;
        const lines = this.#statusLines();
        return lines[0] === String(server.identity.pid) && lines[7]?.trim() === "ready"
          ? ("ready" as const)
          : undefined;
      },
      { timeoutMs: startTimeoutMs, intervalMs: 20, signal: this.#o.signal },
    );
    if (ready === "ready") return;
    const what =
      ready === "ended" ? "ended while it started" : `was not ready after ${startTimeoutMs / 1_000} s`;
    throw new Error(`PostgreSQL ${what}; the end of ${this.#output}:\n${tailOf(this.#output, 15)}`);
  }

  #statusLines(): string[] {
    try {
      return readFileSync(join(this.#data, "postmaster.pid"), "utf8").split("\n");
    } catch {
      return [];
    }
  }

  #died(server: Started): void {
    if (this.#stopping || this.#server !== server) return;
    this.#server = undefined;
    for (const listener of this.#listeners) listener();
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    const server = this.#server?.identity;
    if (server !== undefined) {
      // SIGINT: a fast shutdown, clients are cut and what was committed is written down.
      signal(server, "SIGINT");
      if (!(await waitGone([server], stopTimeoutMs))) signal(server, "SIGQUIT");
      if (!(await waitGone([server], 5_000))) signal(server, "SIGKILL");
    }
    await stopProcesses(postgresProcessesIn(this.#data), "SIGQUIT", 5_000);
    this.#server = undefined;
  }

  async kill(name: NodeJS.Signals): Promise<void> {
    const server = this.main();
    if (server === undefined) return;
    signal(server, name);
    if (name === "SIGKILL") await waitGone([server], 5_000);
  }
}

/** A server of installed binaries with its own data and port; not started yet. */
export async function openPrivatePostgres(o: PrivatePostgresOptions): Promise<Server> {
  const statePath = join(o.logFolder, "..", "postgres.json");
  const data = join(o.folder, "postgres", "data");
  const leftovers = postgresProcessesIn(data);
  if (leftovers.length > 0) {
    o.log("PostgreSQL: stopping a server left behind by an earlier run");
    await stopProcesses(leftovers, "SIGINT", stopTimeoutMs);
  }
  const before = readJson(statePath, stateSchema)?.port;
  const { port } = await choosePorts(["port"], before === undefined ? {} : { port: before });
  if (before !== undefined && before !== port) {
    o.log(`PostgreSQL: port ${before} is now taken by ${describeHolder(before)}; using ${port}`);
  }
  writeJson(statePath, { port });
  return new PrivatePostgres(o, port);
}
