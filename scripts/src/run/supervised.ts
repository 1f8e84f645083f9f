import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { closeSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { openLog, tailOf } from "../system/files.ts";
import { identityOf, isAlive } from "../system/process-table.ts";
import type { ProcessIdentity } from "../system/process-table.ts";
import { pollUntil, stopProcesses } from "../system/wait.ts";
import { openBackoff } from "./backoff.ts";

export interface SupervisedOptions {
  readonly name: string;
  readonly program: string;
  readonly env: NodeJS.ProcessEnv;
  readonly logFile: string;
  /** Of the internal server: `http://127.0.0.1:1234`. */
  readonly internalUrl: string;
  readonly log: (line: string) => void;
  /** Called when the process that does the work is another one, or none. */
  readonly onChange: () => void;
}

/** A process that is started again when it ends by itself. */
export interface Supervised {
  readonly name: string;
  readonly internalUrl: string;
  pid(): number | null;
  isReady(): Promise<boolean>;
  /** Resolves once it answered that it is ready; rejects with the end of its log. */
  waitReady(timeoutMs: number, signal: AbortSignal): Promise<void>;
  /** Drains, then cuts after `graceMs`; no restart afterwards. */
  stop(graceMs: number): Promise<void>;
}

/** As in sysexits.h: its settings are wrong, and starting it again would not help. */
const settingsExit = 78;
const addressInUseExit = 98;
/** So many ends in a row before the first readiness are a failure of the start. */
const endsBeforeReadyMax = 4;

async function answersReady(internalUrl: string): Promise<boolean> {
  try {
    const answer = await fetch(`${internalUrl}/readyz`, { signal: AbortSignal.timeout(2_000) });
    await answer.arrayBuffer();
    return answer.ok;
  } catch {
    return false;
  }
}

class SupervisedProcess implements Supervised {
  readonly name: string;
  readonly internalUrl: string;
  readonly #o: SupervisedOptions;
  readonly #backoff = openBackoff();
  readonly #stopping = new AbortController();
  #identity: ProcessIdentity | undefined;
  #givenUp: string | undefined;
  #wasReady = false;
  #ends = 0;

  constructor(o: SupervisedOptions) {
    this.#o = o;
    this.name = o.name;
    this.internalUrl = o.internalUrl;
    this.#launch();
  }

  pid(): number | null {
    return this.#identity !== undefined && isAlive(this.#identity) ? this.#identity.pid : null;
  }

  async isReady(): Promise<boolean> {
    return this.pid() !== null && (await answersReady(this.internalUrl));
  }

  #launch(): void {
    const started = Date.now();
    const output = openLog(this.#o.logFile);
    let child: ChildProcess;
    try {
      child = spawn(process.execPath, ["--enable-source-maps", this.#o.program], {
        env: this.#o.env,
        cwd: "/",
        // A group of its own: Ctrl-C reaches the supervisor alone, which then stops everything in order.
        detached: true,
        stdio: ["ignore", output, output],
      });
    } finally {
      closeSync(output);
    }
    this.#identity = child.pid === undefined ? undefined : identityOf(child.pid);
    let ended = false;
    const end = (code: number | null, signal: NodeJS.Signals | null): void => {
      if (!ended) void this.#ended(code, signal, Date.now() - started);
      ended = true;
    };
    child.once("error", () => end(null, null));
    child.once("exit", end);
    this.#o.onChange();
  }

  async #ended(code: number | null, signal: NodeJS.Signals | null, livedMs: number): Promise<void> {
    this.#identity = undefined;
    if (this.#stopping.signal.aborted) return;
    this.#ends += 1;
    const how = signal === null ? `exited with ${code ?? "an error"}` : `was ended by ${signal}`;
    const tooOften = !this.#wasReady && this.#ends >= endsBeforeReadyMax;
    if (code === settingsExit || tooOften || (!this.#wasReady && code === addressInUseExit)) {
      this.#givenUp = `${this.name} ${how}; the end of ${this.#o.logFile}:\n${tailOf(this.#o.logFile, 15)}`;
      if (this.#wasReady) this.#o.log(this.#givenUp);
      this.#o.onChange();
      return;
    }
    const pauseMs = this.#backoff.pauseAfter(livedMs);
    this.#o.log(`${this.name} ${how}; starting it again in ${pauseMs} ms`);
    this.#o.onChange();
    try {
      await delay(pauseMs, undefined, { signal: this.#stopping.signal });
    } catch {
      return;
    }
    this.#launch();
  }

  async waitReady(timeoutMs: number, signal: AbortSignal): Promise<void> {
    const ready = await pollUntil(
      async () => {
        if (this.#givenUp !== undefined) throw new Error(this.#givenUp);
        return this.isReady();
      },
      { timeoutMs, intervalMs: 100, signal },
    );
    if (ready !== true) {
      const { logFile } = this.#o;
      const seconds = timeoutMs / 1_000;
      throw new Error(
        `${this.name} was not ready after ${seconds} s; the end of ${logFile}:\n${tailOf(logFile, 15)}`,
      );
    }
    this.#wasReady = true;
  }

  async stop(graceMs: number): Promise<void> {
    this.#stopping.abort();
    if (this.#identity !== undefined) await stopProcesses([this.#identity], "SIGTERM", graceMs);
  }
}

export function supervise(o: SupervisedOptions): Supervised {
  return new SupervisedProcess(o);
}
