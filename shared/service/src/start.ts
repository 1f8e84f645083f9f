import { readFile } from "node:fs/promises";
import { createMetrics } from "@muster/telemetry/metrics";
import type { Metrics } from "@muster/telemetry/metrics";
import { openLogger } from "@muster/telemetry/logger";
import type { Logger } from "@muster/telemetry/logger";
import { z } from "zod";
import { closeInReverse } from "./closing.ts";
import type { Closeable, CloseOutcome, Health } from "./closing.ts";
import { openInternalServer } from "./internal-server.ts";
import type { InternalServer } from "./internal-server.ts";
import { commonSettings } from "./known-settings.ts";
import { ReadinessBoard } from "./readiness.ts";
import { printSettings, readSettings, SettingsError } from "./settings.ts";
import type { Environment, Settings, Values } from "./settings.ts";

export type { Closeable, Health } from "./closing.ts";

/** 78 and 98 as in sysexits.h (EX_CONFIG) and Linux's EADDRINUSE. */
export const exitCodes = { clean: 0, failure: 1, settings: 78, addressInUse: 98 } as const;

/** What a crash leaves for draining before the process goes. */
const crashDrainMs = 5_000;

export interface ServiceContext<T extends Settings> {
  readonly config: Values<typeof commonSettings & T>;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly version: string;
  /** Closed in reverse order when the service stops; `health` feeds /readyz under `name`. */
  own<C extends Closeable>(
    name: string,
    closeable: C,
    health?: (closeable: C) => Health | Promise<Health>,
  ): C;
  /** A resource died by itself: log, drain, exit 1. */
  fail(error: Error): void;
  /** Aborted as the first thing when the service stops. */
  readonly draining: AbortSignal;
}

export interface StartOptions<T extends Settings> {
  readonly name: string;
  readonly settings: T;
  readonly env: Environment;
  /** As `process.argv`. */
  readonly argv: readonly string[];
}

/**
 * Runs a service for the rest of the process: settings, logger, metrics, internal server, then `open`.
 * Resolves when ready. Ends the process by itself: 0 after a clean stop, 1 after a failure,
 * 78 when settings are wrong, 98 when an address is in use.
 */
export async function startService<T extends Settings>(
  o: StartOptions<T>,
  open: (service: ServiceContext<T>) => Promise<void>,
): Promise<void> {
  const settings = { ...commonSettings, ...o.settings };
  if (o.argv.includes("--print-config")) process.stdout.write(printSettings(settings, o.env));
  const config = configOrExit(o.name, settings, o.env);
  if (o.argv.includes("--print-config")) process.exit(exitCodes.clean);

  const version = await ownVersion();
  const logger = openLogger({ service: o.name, level: config.MUSTER_LOG_LEVEL });
  const metrics = createMetrics({ service: o.name });
  const run = new Run(logger, config.MUSTER_DRAIN_TIMEOUT_MS);
  run.watchProcess();
  try {
    run.internal = await openInternalServer({
      host: config.MUSTER_INTERNAL_HOST,
      port: config.MUSTER_INTERNAL_PORT,
      board: run.board,
      metrics,
      version,
    });
    logger.info({ internal_port: run.internal.port, version }, "starting");
    await open({
      config: config,
      logger,
      metrics,
      version,
      own: (name, closeable, health) => run.own(name, closeable, health),
      fail: (error) => run.fail(error),
      draining: run.draining.signal,
    });
    run.board.advance("ready");
    if (run.board.phase === "ready") logger.info("ready");
  } catch (error) {
    run.openFailed(error);
  }
}

function configOrExit<S extends Settings>(name: string, settings: S, env: Environment): Values<S> {
  try {
    return readSettings(settings, env);
  } catch (error) {
    if (!(error instanceof SettingsError)) throw error;
    process.stderr.write(`${name}: ${error.message}\nSee --print-config and .env.example.\n`);
    process.exit(exitCodes.settings);
  }
}

async function ownVersion(): Promise<string> {
  const manifest = await readFile(new URL("../../package.json", import.meta.url), "utf8");
  return z.object({ version: z.string() }).parse(JSON.parse(manifest)).version;
}

/** One service's life in this process. */
class Run {
  readonly board = new ReadinessBoard();
  readonly draining = new AbortController();
  internal: InternalServer | undefined;
  readonly #owned: { name: string; closeable: Closeable }[] = [];
  readonly #logger: Logger;
  readonly #drainTimeoutMs: number;
  readonly #late: Promise<CloseOutcome[]>[] = [];
  #stopping = false;
  #crashed = false;

  constructor(logger: Logger, drainTimeoutMs: number) {
    this.#logger = logger;
    this.#drainTimeoutMs = drainTimeoutMs;
  }

  watchProcess(): void {
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.on(signal, () => {
        if (this.#stopping) {
          this.#logger.warn({ signal }, "second signal: stopping at once");
          process.exit(exitCodes.failure);
        }
        this.#logger.info({ signal }, "draining");
        void this.#stop(exitCodes.clean, this.#drainTimeoutMs);
      });
    }
    process.on("uncaughtException", (error, origin) => this.#crash(error, origin));
    process.on("unhandledRejection", (reason) => this.#crash(reason, "unhandledRejection"));
  }

  own<C extends Closeable>(
    name: string,
    closeable: C,
    health?: (closeable: C) => Health | Promise<Health>,
  ): C {
    if (this.#stopping) {
      // Opened while the stop was already under way: nobody will use it, and open() must go no further.
      this.#late.push(closeInReverse([{ name, closeable }], this.#drainTimeoutMs));
      throw new Error(`stopping: ${name} is not needed any more`);
    }
    this.#owned.push({ name, closeable });
    if (health !== undefined) this.board.watch(name, () => health(closeable));
    return closeable;
  }

  fail(error: Error): void {
    this.#logger.fatal({ err: error }, "a resource died by itself; stopping");
    this.board.advance("failed");
    void this.#stop(exitCodes.failure, this.#drainTimeoutMs);
  }

  openFailed(error: unknown): void {
    // While draining, whatever open still waited for ends with an error; that is no failure of its own.
    if (this.#stopping) return;
    const inUse = addressInUse(error);
    if (inUse !== undefined) this.#logger.fatal({ err: error }, inUse);
    else this.#logger.fatal({ err: error }, `cannot start: ${textOf(error)}`);
    this.board.advance("failed");
    const wrong = error instanceof SettingsError ? exitCodes.settings : exitCodes.failure;
    const code = inUse === undefined ? wrong : exitCodes.addressInUse;
    void this.#stop(code, this.#drainTimeoutMs);
  }

  #crash(reason: unknown, origin: string): void {
    this.#logger.fatal({ err: reason, origin }, "uncaught: this is a defect");
    this.#crashed = true;
    this.board.advance("failed");
    void this.#stop(exitCodes.failure, Math.min(crashDrainMs, this.#drainTimeoutMs));
  }

  async #stop(code: number, timeoutMs: number): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    this.board.advance("draining");
    this.draining.abort();
    const outcomes = await closeInReverse(this.#owned, timeoutMs);
    outcomes.push(...(await Promise.all(this.#late)).flat());
    for (const { name, outcome, tookMs, error } of outcomes) {
      const fields = { resource: name, took_ms: tookMs, ...(error === undefined ? {} : { err: error }) };
      if (outcome === "stuck") this.#logger.error(fields, `${name} did not close in time and was cut`);
      else if (outcome === "failed") this.#logger.error(fields, `${name} failed to close`);
      else this.#logger.debug(fields, `${name} closed`);
    }
    await this.internal?.close();
    const clean = !this.#crashed && outcomes.every(({ outcome }) => outcome === "closed");
    const exitCode = code === exitCodes.clean && !clean ? exitCodes.failure : code;
    this.#logger.info({ exit_code: exitCode }, "stopped");
    process.exit(exitCode);
  }
}

function addressInUse(error: unknown): string | undefined {
  for (let at = error, depth = 0; at instanceof Error && depth < 8; at = at.cause, depth++) {
    if (!("code" in at) || at.code !== "EADDRINUSE") continue;
    const where = `${"address" in at ? String(at.address) : ""}:${"port" in at ? String(at.port) : ""}`;
    return `another process listens on ${where}; stop it, or choose another port`;
  }
  return undefined;
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
