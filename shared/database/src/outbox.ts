import type { PreparedMessage, PublishVerdict } from "@muster/contracts/message";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import type { Database } from "./database.ts";
import type { OutboxState } from "./outbox-desk.ts";
import { OutboxMemory, type OutboxEntry } from "./outbox-memory.ts";
import { Poller } from "./outbox-poll.ts";
import { Settler, type OutboxRow } from "./outbox-settle.ts";
import { releaseOutbox } from "./outbox-store.ts";
import type { Tx } from "./transaction.ts";

export type { OutboxRow } from "./outbox-settle.ts";
export type { OutboxState } from "./outbox-desk.ts";

export interface OutboxRelayOptions {
  readonly database: Database;
  /** One attempt to put the message on the broker, with a verdict in bounded time. */
  publish(message: PreparedMessage): Promise<PublishVerdict>;
  /**
   * Runs in the transaction (system scope) that deletes the rows of these routed messages, in batches. It may be
   * given a message twice, after a crash or an unknown commit; make its writes compare-and-set.
   */
  onRouted?(tx: Tx, rows: readonly OutboxRow[]): Promise<void>;
  /** No queue took it. "retry" (the default) tries again, at once the first time; "drop" deletes the row. */
  onUnroutable?(message: PreparedMessage): Promise<"retry" | "drop">;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** The safety net looks this often, ± 20 %. Default 1 s. */
  readonly pollMs?: number;
  /** Rows read back at a time. Default 500. */
  readonly pollBatch?: number;
  /** How long other processes leave a fresh row to the one that wrote it. Default 5 s. */
  readonly graceMs?: number;
  /** Publishes under way at once. Default 256. */
  readonly window?: number;
  /** Messages and bytes held in memory; beyond them new ones wait in the table. Defaults 5 000 and 64 MiB. */
  readonly pendingMax?: number;
  readonly pendingBytesMax?: number;
  /** How long close waits for what is under way. Default 10 s. */
  readonly closeMs?: number;
}

export interface OutboxRelay {
  state(): OutboxState;
  /** Looks into the table now. */
  poke(): void;
  /** Publishes what it holds, gives the rest back to the table, stops. */
  close(): Promise<void>;
}

type Limits = Required<
  Pick<
    OutboxRelayOptions,
    "pollMs" | "pollBatch" | "graceMs" | "window" | "pendingMax" | "pendingBytesMax" | "closeMs"
  >
>;

const quickAttemptsMax = 3;
const backoffMaxMs = 30_000;
const pauseMaxMs = 1_000;

/**
 * Takes committed messages to the broker: from memory right after the commit, and from the table whatever was left
 * by a crash, a failure or a full memory. Each message at least once, always with the same id; messages of one
 * ordering key are first routed in the order of their rows, with any number of relays on one table.
 */
export async function openOutboxRelay(o: OutboxRelayOptions): Promise<OutboxRelay> {
  const limits: Limits = {
    pollMs: o.pollMs ?? 1_000,
    pollBatch: o.pollBatch ?? 500,
    graceMs: o.graceMs ?? 5_000,
    window: o.window ?? 256,
    pendingMax: o.pendingMax ?? 5_000,
    pendingBytesMax: o.pendingBytesMax ?? 64 * 1024 * 1024,
    closeMs: o.closeMs ?? 10_000,
  };
  const relay = new Relay(o, limits);
  try {
    await relay.start();
  } catch (error) {
    await relay.close();
    throw error;
  }
  return relay;
}

class Relay implements OutboxRelay {
  readonly #o: OutboxRelayOptions;
  readonly #limits: Limits;
  readonly #memory = new OutboxMemory();
  readonly #settler: Settler;
  readonly #poller: Poller;
  readonly #published;
  readonly #timers = new Set<NodeJS.Timeout>();
  /** Entries that the broker refused, for when it takes messages again. */
  #refused: OutboxEntry[] = [];
  #refusals = 0;
  #paused = false;
  #closing: Promise<void> | undefined;
  #detach: () => void = () => undefined;
  #whenIdle: (() => void) | undefined;

  constructor(o: OutboxRelayOptions, limits: Limits) {
    this.#o = o;
    this.#limits = limits;
    this.#settler = new Settler({
      database: o.database,
      onRouted: async (tx, rows) => o.onRouted?.(tx, rows),
      logger: o.logger,
    });
    this.#published = o.metrics.counter({
      name: "muster_outbox_published_total",
      help: "Publishes from the outbox by verdict; source is memory or poll",
      labels: ["verdict", "source"],
    });
    this.#poller = new Poller({
      database: o.database,
      memory: this.#memory,
      limits,
      logger: o.logger,
      metrics: o.metrics,
      mayClaim: () => !this.#paused && this.#closing === undefined,
      arrived: () => this.#pump(),
    });
  }

  async start(): Promise<void> {
    await this.#poller.start();
    this.#detach = this.#o.database.desk.attach({
      leaseMs: () => (this.#hasRoom() ? this.#limits.graceMs : 0),
      state: () => this.state(),
      take: (written) => {
        // Room was promised when the rows were written; a promise to many at once may overshoot, but not by twice.
        if (this.#closing !== undefined || this.#memory.size > this.#limits.pendingMax * 2) return;
        this.#poller.admit(written);
        this.#pump();
      },
    });
  }

  state(): OutboxState {
    const seen = this.#poller.seen();
    return {
      depth: Math.max(seen.depth, this.#memory.size),
      oldestAgeMs: Math.max(seen.oldestAgeMs, this.#memory.oldestMs(performance.now())),
    };
  }

  poke(): void {
    this.#poller.within(0);
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#shut());
  }

  #hasRoom(): boolean {
    return (
      this.#closing === undefined &&
      this.#memory.size + this.#settler.size < this.#limits.pendingMax &&
      this.#memory.bytes < this.#limits.pendingBytesMax
    );
  }

  #pump(): void {
    while (!this.#paused && this.#memory.publishing < this.#limits.window) {
      const entry = this.#memory.next();
      if (entry === undefined) break;
      void this.#publish(entry);
    }
    this.#poller.roomMade();
    if (this.#memory.publishing === 0) this.#whenIdle?.();
  }

  async #publish(entry: OutboxEntry): Promise<void> {
    let verdict: PublishVerdict;
    try {
      verdict = await this.#o.publish(entry.message);
    } catch (error) {
      verdict = { kind: "unknown", reason: error instanceof Error ? error.message : String(error) };
    }
    this.#published.inc({ verdict: verdict.kind, source: entry.path });
    if (verdict.kind === "routed") {
      this.#refusals = 0;
      this.#memory.done(entry);
      this.#settler.routed(entry);
    } else if (verdict.kind === "refused") {
      this.#memory.rest(entry);
      this.#refused.push(entry);
      this.#pause(verdict.reason);
    } else {
      await this.#failed(entry, verdict);
    }
    this.#pump();
  }

  async #failed(entry: OutboxEntry, verdict: { kind: string; reason: string }): Promise<void> {
    const { message } = entry;
    let atOnce = false;
    if (verdict.kind === "unroutable" && this.#o.onUnroutable !== undefined) {
      const decided = await this.#decide(message);
      if (decided === "drop") {
        this.#o.logger.debug({ message_id: message.id, type: message.type }, "no queue wants it");
        this.#memory.done(entry);
        this.#settler.dropped(entry);
        return;
      }
      atOnce = decided === "retry" && entry.attempts === 0;
    }
    entry.attempts++;
    const delayMs = atOnce ? 0 : jittered(Math.min(backoffMaxMs, 50 * 2 ** Math.min(entry.attempts, 12)));
    const ours = performance.now() + delayMs < entry.leasedUntilMs;
    if (ours && entry.attempts <= quickAttemptsMax && this.#closing === undefined) {
      this.#memory.rest(entry);
      this.#later(delayMs, () => {
        this.#memory.wake(entry);
        this.#pump();
      });
      return;
    }
    // It keeps failing: back to the table with it and its followers, so that memory holds what moves.
    this.#o.logger.warn(
      { message_id: message.id, type: message.type, verdict, attempts: entry.attempts },
      "a message of the outbox does not get through",
    );
    this.#memory.forget(entry);
    this.#settler.postponed({
      id: entry.id,
      attempts: entry.attempts,
      verdict: `${verdict.kind}: ${verdict.reason}`,
      retryAfterMs: delayMs,
    });
    this.#poller.within(delayMs + 20);
  }

  /** "unsure" is a decision that failed: tried again like any failure. */
  async #decide(message: PreparedMessage): Promise<"retry" | "drop" | "unsure"> {
    try {
      return (await this.#o.onUnroutable?.(message)) ?? "retry";
    } catch (error) {
      this.#o.logger.warn(
        { err: error, message_id: message.id },
        "nothing could be done about an unroutable message",
      );
      return "unsure";
    }
  }

  /** The broker takes nothing from anyone: one pause for all instead of a backoff for each. */
  #pause(reason: string): void {
    if (this.#paused) return;
    this.#paused = true;
    if (this.#refusals === 0)
      this.#o.logger.warn({ reason }, "the broker refuses messages; the outbox waits");
    const pauseMs = jittered(Math.min(pauseMaxMs, 50 * 2 ** Math.min(++this.#refusals, 10)));
    this.#later(pauseMs, () => {
      this.#paused = false;
      const resting = this.#refused;
      this.#refused = [];
      for (const entry of resting) this.#memory.wake(entry);
      this.#poller.within(this.#limits.pollMs);
      this.#pump();
    });
  }

  #later(ms: number, work: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      work();
    }, ms);
    this.#timers.add(timer);
  }

  async #shut(): Promise<void> {
    const deadlineMs = performance.now() + this.#limits.closeMs;
    this.#detach();
    await this.#poller.stop();
    this.#pump();
    if (this.#memory.publishing > 0) await this.#idleBy(deadlineMs);
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.#paused = true;
    await this.#settler.drain(Math.max(0, deadlineMs - performance.now()));
    this.#settler.stop();
    const left = this.#memory.idleIds();
    if (left.length === 0) return;
    try {
      await this.#o.database.transaction("system", (tx) => releaseOutbox(tx, left));
    } catch (error) {
      this.#o.logger.warn(
        { err: error, rows: left.length },
        "outbox rows stay leased until their grace is over",
      );
    }
  }

  async #idleBy(deadlineMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.#whenIdle = resolve;
      timer = setTimeout(resolve, Math.max(0, deadlineMs - performance.now()));
    });
    clearTimeout(timer);
  }
}

const jittered = (ms: number): number => ms * (0.5 + Math.random() / 2);
