import { existsSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { z } from "zod";
import { mustRun } from "../system/child.ts";
import { readJson, tailOf, writeJson } from "../system/files.ts";
import { choosePorts, describeHolder, isPortFree, isPortOpen } from "../system/ports.ts";
import { isAlive, markerVariable, processesWith, signal } from "../system/process-table.ts";
import type { ProcessEntry } from "../system/process-table.ts";
import { pollUntil, stopProcesses, waitGone } from "../system/wait.ts";
import type { RabbitBinaries } from "./binaries.ts";
import {
  brokerUser,
  rabbitEnvironment,
  rabbitPaths,
  rabbitPortNames,
  writeRabbitFiles,
} from "./rabbit-files.ts";
import type { RabbitPaths, RabbitPorts } from "./rabbit-files.ts";
import { startDaemon } from "./server.ts";
import type { Server, Started } from "./server.ts";

export interface BrokerServer extends Server {
  readonly managementUrl: string;
  readonly prometheusUrl: string | undefined;
  /** Runs `rabbitmqctl` on this node and gives what it printed; undefined where the node is not ours. */
  readonly control?: (args: readonly string[]) => Promise<string>;
}

export interface PrivateRabbitOptions {
  readonly folder: string;
  readonly marker: string;
  readonly binaries: RabbitBinaries;
  readonly password: string;
  /** Where the node gets the keys that verify agents' tokens; without it no token is taken. */
  readonly brokerKeysUrl?: string | undefined;
  /** The folder with rabbitmq.conf and enabled_plugins. */
  readonly templates: string;
  readonly env: NodeJS.ProcessEnv;
  readonly log: (line: string) => void;
  readonly signal?: AbortSignal | undefined;
}

const startTimeoutMs = 120_000;
const stopTimeoutMs = 20_000;
const startingGraceMs = 5_000;
const controlTimeoutMs = 60_000;

const portSchema = z.number().int().min(1).max(65_535);
const stateSchema = z.object({
  version: z.string(),
  /** Was up at least once: before that there are no data, only what a broken-off first start left. */
  wasReady: z.boolean().default(false),
  ports: z.object({
    amqp: portSchema,
    management: portSchema,
    prometheus: portSchema,
    distribution: portSchema,
    epmd: portSchema,
  }),
});

function statePathOf(paths: RabbitPaths): string {
  return join(paths.root, "state.json");
}

function series(version: string): string {
  return version.split(".").slice(0, 2).join(".");
}

/** Data of another release series is not readable for sure: it is kept, under another name. */
function moveForeignData(paths: RabbitPaths, had: string, o: PrivateRabbitOptions): void {
  if (series(had) === series(o.binaries.version) || !existsSync(paths.mnesia)) return;
  const aside = join(paths.root, `mnesia-${had}-${Date.now()}`);
  renameSync(paths.mnesia, aside);
  o.log(`RabbitMQ ${o.binaries.version}: the data of ${had} was moved aside to ${aside}`);
}

async function managementAnswers(url: string, user: string, password: string): Promise<boolean> {
  try {
    const answer = await fetch(`${url}/api/overview`, {
      headers: { authorization: `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}` },
      signal: AbortSignal.timeout(2_000),
    });
    await answer.arrayBuffer();
    return answer.ok;
  } catch {
    return false;
  }
}

class PrivateRabbit implements BrokerServer {
  readonly origin = "private";
  readonly url: string;
  readonly managementUrl: string;
  readonly prometheusUrl: string;
  readonly #o: PrivateRabbitOptions;
  readonly #paths: RabbitPaths;
  readonly #ports: RabbitPorts;
  readonly #listeners: (() => void)[] = [];
  #server: Started | undefined;
  #stopping = false;
  #ready = false;

  constructor(o: PrivateRabbitOptions, paths: RabbitPaths, ports: RabbitPorts) {
    this.#o = o;
    this.#paths = paths;
    this.#ports = ports;
    this.url = `amqp://${brokerUser}:${o.password}@127.0.0.1:${ports.amqp}`;
    this.managementUrl = `http://${brokerUser}:${o.password}@127.0.0.1:${ports.management}`;
    this.prometheusUrl = `http://127.0.0.1:${ports.prometheus}/metrics`;
  }

  ports(): readonly number[] {
    return Object.values(this.#ports);
  }

  /** All processes of the node: the shell, the virtual machine, its helpers, the port mapper. */
  #processes(): ProcessEntry[] {
    return processesWith("HOME", this.#paths.home);
  }

  main(): ProcessEntry | undefined {
    return this.#processes().find(({ name }) => name.startsWith("beam"));
  }

  onDeath(listener: () => void): void {
    this.#listeners.push(listener);
  }

  #environment(): NodeJS.ProcessEnv {
    const base = { ...this.#o.env, [markerVariable]: this.#o.marker };
    return rabbitEnvironment(this.#paths, this.#ports, base);
  }

  control = async (args: readonly string[]): Promise<string> => {
    const program = join(dirname(this.#o.binaries.server), "rabbitmqctl");
    const env = this.#environment();
    return (await mustRun(program, args, { env, cwd: this.#paths.root, timeoutMs: controlTimeoutMs })).stdout;
  };

  async start(): Promise<void> {
    this.#stopping = false;
    const { password, brokerKeysUrl } = this.#o;
    writeRabbitFiles(this.#paths, this.#o.templates, { ports: this.#ports, password, brokerKeysUrl });
    const env = this.#environment();
    await this.#startPortMapper(env);
    const server = await startDaemon(this.#o.binaries.server, [], {
      env,
      cwd: this.#paths.root,
      output: this.#paths.output,
    });
    this.#server = server;
    await this.#waitReady(server);
    this.#ready = true;
    writeJson(statePathOf(this.#paths), {
      version: this.#o.binaries.version,
      wasReady: true,
      ports: this.#ports,
    });
    void server.exited.then(() => this.#died(server));
  }

  /** Our own, in the foreground: the one that Erlang starts by itself turns into a daemon and outlives the node. */
  async #startPortMapper(env: NodeJS.ProcessEnv): Promise<void> {
    if (this.#o.binaries.epmd === undefined || !(await isPortFree(this.#ports.epmd))) return;
    await startDaemon(this.#o.binaries.epmd, ["-port", String(this.#ports.epmd)], {
      env,
      cwd: this.#paths.root,
      output: this.#paths.output,
    });
    const open = (): Promise<boolean> => isPortOpen(this.#ports.epmd);
    await pollUntil(open, { timeoutMs: 5_000, intervalMs: 20, signal: this.#o.signal });
  }

  async #waitReady(server: Started): Promise<void> {
    const ready = await pollUntil(
      async () => {
        if (!isAlive(server.identity)) return "ended" as const;
        if (!(await isPortOpen(this.#ports.amqp))) return undefined;
        const management = `http://127.0.0.1:${this.#ports.management}`;
        return (await managementAnswers(management, brokerUser, this.#o.password))
          ? ("ready" as const)
          : undefined;
      },
      { timeoutMs: startTimeoutMs, intervalMs: 100, signal: this.#o.signal },
    );
    if (ready === "ready") return;
    const what =
      ready === "ended" ? "ended while it started" : `was not ready after ${startTimeoutMs / 1_000} s`;
    throw new Error(`RabbitMQ ${what}; the end of ${this.#paths.output}:\n${tailOf(this.#paths.output, 15)}`);
  }

  // The shell around the virtual machine may have been killed alone: then the machine is ended too, so that
  // "not ours any more" always means "not running".
  async #died(server: Started): Promise<void> {
    if (this.#stopping || this.#server !== server) return;
    await stopProcesses(this.#processes(), "SIGTERM", stopTimeoutMs);
    this.#server = undefined;
    if (!this.#stopping) for (const listener of this.#listeners) listener();
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    // A node that is still starting cannot be asked: the shell would wait for an answer.
    if (!this.#ready) await stopProcesses(this.#processes(), "SIGTERM", startingGraceMs);
    this.#ready = false;
    const shell = this.#server?.identity;
    const machine = this.main();
    // The shell passes SIGTERM on and waits; without it the virtual machine takes the signal itself.
    if (shell !== undefined && isAlive(shell)) signal(shell, "SIGTERM");
    else if (machine !== undefined) signal(machine, "SIGTERM");
    const both = [shell, machine].filter((one) => one !== undefined);
    if (!(await waitGone(both, stopTimeoutMs))) for (const one of both) signal(one, "SIGKILL");
    await stopProcesses(this.#processes(), "SIGKILL", 5_000);
    this.#server = undefined;
  }

  async kill(name: NodeJS.Signals): Promise<void> {
    const machine = this.main();
    if (machine === undefined) return;
    signal(machine, name);
    if (name === "SIGKILL") await waitGone([machine], 5_000);
  }
}

/** Ends a node that an earlier, killed run of this folder left behind, so that its data and its ports are free. */
async function stopLeftovers(paths: RabbitPaths, o: PrivateRabbitOptions): Promise<void> {
  const found = processesWith("HOME", paths.home);
  if (found.length === 0) return;
  o.log("RabbitMQ: stopping a node left behind by an earlier run");
  const machines = found.filter(({ name }) => name.startsWith("beam"));
  await stopProcesses(machines, "SIGTERM", stopTimeoutMs);
  await stopProcesses(processesWith("HOME", paths.home), "SIGKILL", 5_000);
}

/** A node of installed binaries with its own data, ports, cookie and port mapper; not started yet. */
export async function openPrivateRabbit(o: PrivateRabbitOptions): Promise<BrokerServer> {
  const paths = rabbitPaths(o.folder);
  const statePath = statePathOf(paths);
  await stopLeftovers(paths, o);
  const had = readJson(statePath, stateSchema);
  if (had?.wasReady === true) moveForeignData(paths, had.version, o);
  else rmSync(paths.mnesia, { recursive: true, force: true });
  const ports = await choosePorts(rabbitPortNames, had?.ports ?? {});
  for (const name of rabbitPortNames) {
    const before = had?.ports[name];
    if (before === undefined || before === ports[name]) continue;
    o.log(
      `RabbitMQ: port ${before} (${name}) is now taken by ${describeHolder(before)}; using ${ports[name]}`,
    );
  }
  writeJson(statePath, { version: o.binaries.version, wasReady: had?.wasReady ?? false, ports });
  return new PrivateRabbit(o, paths, ports);
}
