import { MusterError } from "@muster/contracts/errors";
import type { PreparedMessage } from "@muster/contracts/message";
import type { Logger } from "@muster/telemetry/logger";
import type { Database } from "./database.ts";
import { deleteOutbox, postponeOutbox, type FailedPublish } from "./outbox-store.ts";
import type { Tx } from "./transaction.ts";

/** A routed message, as `onRouted` gets it. */
export interface OutboxRow {
  readonly id: number;
  readonly message: PreparedMessage;
  /** Failed publishes before this one. */
  readonly attempts: number;
}

export interface SettlerOptions {
  readonly database: Database;
  readonly onRouted: (tx: Tx, rows: readonly OutboxRow[]) => Promise<void>;
  readonly logger: Logger;
}

interface Done {
  readonly row: OutboxRow;
  readonly routed: boolean;
  failures: number;
}

const batchMax = 500;
const pauseMaxMs = 30_000;
const outagePauseMaxMs = 5_000;

/**
 * Deletes rows of routed messages, one transaction at a time: what arrives meanwhile makes the next batch. A batch
 * whose `onRouted` throws is taken apart, so that one bad row does not hold up the others.
 */
export class Settler {
  readonly #o: SettlerOptions;
  readonly #done: Done[] = [];
  readonly #failed: FailedPublish[] = [];
  readonly #timers = new Set<NodeJS.Timeout>();
  #busy = 0;
  #waiting = 0;
  #running = false;
  #stopped = false;
  #outages = 0;
  #whenEmpty: (() => void) | undefined;

  constructor(o: SettlerOptions) {
    this.#o = o;
  }

  /** Rows whose deletion is under way. */
  get size(): number {
    return this.#done.length + this.#busy + this.#waiting;
  }

  routed(row: OutboxRow): void {
    this.#add({ row, routed: true, failures: 0 });
  }

  dropped(row: OutboxRow): void {
    this.#add({ row, routed: false, failures: 0 });
  }

  postponed(failed: FailedPublish): void {
    this.#failed.push(failed);
    void this.#run();
  }

  /** Resolves when nothing is left to write, or the time is over. */
  async drain(timeoutMs: number): Promise<void> {
    if (this.size === 0 && !this.#running) return;
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.#whenEmpty = resolve;
      timer = setTimeout(resolve, timeoutMs);
    });
    clearTimeout(timer);
  }

  /** Writes nothing more; what is left stays in the table and will be sent again. */
  stop(): void {
    this.#stopped = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }

  #add(item: Done): void {
    this.#done.push(item);
    void this.#run();
  }

  async #run(): Promise<void> {
    if (this.#running || this.#stopped) return;
    this.#running = true;
    while (this.#done.length + this.#failed.length > 0 && !this.#stopped) {
      const batch = this.#done.splice(0, batchMax);
      const postponed = this.#failed.splice(0, batchMax);
      this.#busy = batch.length;
      try {
        await this.#settle(batch, postponed);
        this.#outages = 0;
      } catch (error) {
        // The database is away. Postponements may be lost with it: those rows come back when their lease ends.
        this.#done.unshift(...batch);
        this.#o.logger.warn({ err: error, rows: this.#done.length }, "the outbox cannot be settled for now");
        const pauseMs = Math.min(outagePauseMaxMs, 100 * 2 ** Math.min(++this.#outages, 10));
        this.#later(pauseMs * (0.5 + Math.random() / 2), () => void this.#run());
        break;
      } finally {
        this.#busy = 0;
      }
    }
    this.#running = false;
    if (this.size === 0) this.#whenEmpty?.();
  }

  async #settle(batch: readonly Done[], postponed: readonly FailedPublish[]): Promise<void> {
    try {
      await this.#write(batch, postponed);
    } catch (error) {
      if (error instanceof MusterError && error.retriable) throw error;
      const [first] = batch;
      if (batch.length === 1 && first !== undefined) return this.#retryLater(first, error);
      for (const item of batch) await this.#settle([item], []);
    }
  }

  async #write(batch: readonly Done[], postponed: readonly FailedPublish[]): Promise<void> {
    const routed = batch.filter((item) => item.routed).map((item) => item.row);
    const ids = batch.map((item) => item.row.id);
    await this.#o.database.transaction("system", async (tx) => {
      if (routed.length > 0) await this.#o.onRouted(tx, routed);
      if (ids.length > 0) await deleteOutbox(tx, ids);
      if (postponed.length > 0) await postponeOutbox(tx, postponed);
    });
  }

  #retryLater(item: Done, error: unknown): void {
    item.failures++;
    this.#waiting++;
    const { message } = item.row;
    this.#o.logger.error(
      { err: error, message_id: message.id, type: message.type, failures: item.failures },
      "a routed message could not be settled; trying again",
    );
    this.#later(Math.min(pauseMaxMs, 250 * 2 ** Math.min(item.failures, 10)), () => {
      this.#waiting--;
      this.#add(item);
    });
  }

  #later(ms: number, work: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      work();
    }, ms);
    this.#timers.add(timer);
  }
}
