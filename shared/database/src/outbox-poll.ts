import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import type { Database } from "./database.ts";
import type { OutboxState, WrittenMessage } from "./outbox-desk.ts";
import type { OutboxMemory } from "./outbox-memory.ts";
import { claimOutbox, measureOutbox, presentOutbox } from "./outbox-store.ts";

export interface PollerOptions {
  readonly database: Database;
  readonly memory: OutboxMemory;
  readonly limits: { readonly pollMs: number; readonly pollBatch: number; readonly graceMs: number };
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly mayClaim: () => boolean;
  readonly arrived: () => void;
}

const recheckMinMs = 10;
const recheckMaxMs = 250;

/** Brings rows into memory: those of a commit at once, and from the table those that no one published. */
export class Poller {
  readonly #o: PollerOptions;
  readonly #depth;
  readonly #heldBack;
  readonly #oldest;
  #seen: OutboxState = { depth: 0, oldestAgeMs: 0 };
  #timer: NodeJS.Timeout | undefined;
  #timerDueMs = Infinity;
  #polling: Promise<void> | undefined;
  #again = false;
  #backlog = false;
  #failing = false;
  #stopped = false;
  #recheckTimer: NodeJS.Timeout | undefined;
  #recheckMs = recheckMinMs;

  constructor(o: PollerOptions) {
    this.#o = o;
    this.#depth = o.metrics.gauge({
      name: "muster_outbox_depth",
      help: "Rows of the outbox that wait for the broker, 10 000 at most",
    });
    this.#heldBack = o.metrics.gauge({
      name: "muster_outbox_held_back",
      help: "Rows of the outbox that wait for one destination that does not take them: full, gone or stuck",
    });
    this.#oldest = o.metrics.gauge({
      name: "muster_outbox_oldest_seconds",
      help: "Age of the oldest row of the outbox",
    });
  }

  /** The first look; rejects if the table cannot be read. */
  async start(): Promise<void> {
    await this.#look();
    this.within(this.#o.limits.pollMs);
  }

  /** Takes messages of a commit into memory, and watches over rows of other processes that they wait for. */
  admit(written: readonly WrittenMessage[]): void {
    const { memory, limits } = this.#o;
    const nowMs = performance.now();
    for (const one of written) {
      if (!memory.isOwn(one.after)) {
        this.#recheckMs = recheckMinMs;
        this.#recheckSoon();
      }
      memory.add(one, "memory", nowMs, limits.graceMs);
    }
  }

  /** Looks into the table in so many milliseconds, or sooner. */
  within(ms: number): void {
    if (this.#stopped) return;
    if (this.#polling !== undefined) {
      if (ms === 0) this.#again = true;
      return;
    }
    const dueMs = performance.now() + ms;
    if (dueMs >= this.#timerDueMs) return;
    clearTimeout(this.#timer);
    this.#timerDueMs = dueMs;
    this.#timer = setTimeout(() => this.#poll(), ms);
  }

  /** Memory got emptier: a backlog is read on without waiting. */
  roomMade(): void {
    if (!this.#backlog || this.#o.memory.polled >= this.#o.limits.pollBatch / 2) return;
    this.#backlog = false;
    this.within(0);
  }

  seen(): OutboxState {
    return this.#seen;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#recheckTimer);
    await this.#polling;
  }

  #poll(): void {
    this.#timerDueMs = Infinity;
    this.#polling ??= this.#pollOnce().finally(() => {
      this.#polling = undefined;
      this.within(this.#again ? 0 : this.#o.limits.pollMs * (0.8 + Math.random() * 0.4));
      this.#again = false;
    });
  }

  async #pollOnce(): Promise<void> {
    try {
      await this.#look();
      this.#failing = false;
    } catch (error) {
      if (!this.#failing) this.#o.logger.warn({ err: error }, "the outbox cannot be read; trying again");
      this.#failing = true;
    }
  }

  async #look(): Promise<void> {
    const { memory, limits } = this.#o;
    const nowMs = performance.now();
    memory.expire(nowMs);
    const limit = this.#o.mayClaim() ? limits.pollBatch - memory.polled : 0;
    const { rows, state } = await this.#o.database.transaction("system", async (tx) => ({
      rows: limit > 0 ? await claimOutbox(tx, limit, limits.graceMs) : [],
      state: await measureOutbox(tx),
    }));
    this.#seen = state;
    this.#depth.set(state.depth);
    this.#heldBack.set(state.heldBack);
    this.#oldest.set(state.oldestOfAllMs / 1_000);
    this.#backlog = limit > 0 && rows.length === limit;
    for (const row of rows) {
      // A follower of a row that is not here would only take room; it comes up again when its lease is over.
      if (memory.isOwn(row.after)) memory.add(row, "poll", nowMs, limits.graceMs);
    }
    if (rows.length > 0) this.#o.arrived();
  }

  #recheckSoon(): void {
    if (this.#stopped || this.#recheckTimer !== undefined) return;
    this.#recheckTimer = setTimeout(() => {
      void this.#recheck().finally(() => {
        this.#recheckTimer = undefined;
        if (this.#o.memory.foreign().length > 0) this.#recheckSoon();
      });
    }, this.#recheckMs);
    this.#recheckMs = Math.min(recheckMaxMs, this.#recheckMs * 2);
  }

  async #recheck(): Promise<void> {
    const awaited = this.#o.memory.foreign();
    if (awaited.length === 0) return;
    try {
      const present = await this.#o.database.transaction("system", (tx) => presentOutbox(tx, awaited));
      const left = awaited.filter((id) => !present.has(id));
      for (const id of left) this.#o.memory.gone(id);
      if (left.length > 0) this.#o.arrived();
    } catch (error) {
      this.#o.logger.debug({ err: error }, "rows waited for could not be looked up");
    }
  }
}
