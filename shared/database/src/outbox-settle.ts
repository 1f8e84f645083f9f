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

export interface Settler {
  /** Rows whose deletion is under way. */
  readonly size: number;
  routed(row: OutboxRow): void;
  dropped(row: OutboxRow): void;
  postponed(failed: FailedPublish): void;
  /** Resolves when nothing is left to write, or the time is over. */
  drain(timeoutMs: number): Promise<void>;
  /** Writes nothing more; what is left stays in the table and will be sent again. */
  stop(): void;
}

interface Done {
  readonly row: OutboxRow;
  readonly routed: boolean;
  failures: number;
}

const batchMax = 500;
const pauseMaxMs = 30_000;

/**
 * Deletes rows of routed messages, one transaction at a time: what arrives meanwhile makes the next batch. A batch
 * whose `onRouted` throws is taken apart, so that one bad row does not hold up the others.
 */
export function makeSettler(o: {
  database: Database;
  onRouted?: ((tx: Tx, rows: readonly OutboxRow[]) => Promise<void>) | undefined;
  logger: Logger;
}): Settler {
  const done: Done[] = [];
  const failed: FailedPublish[] = [];
  const timers = new Set<NodeJS.Timeout>();
  let waitingForRetry = 0;
  let busy = 0;
  let running = false;
  let stopped = false;
  let outages = 0;
  let whenEmpty: (() => void) | undefined;

  const size = () => done.length + busy + waitingForRetry;

  async function write(batch: readonly Done[], postponed: readonly FailedPublish[]): Promise<void> {
    await o.database.transaction("system", async (tx) => {
      const routed = batch.filter((item) => item.routed).map((item) => item.row);
      if (routed.length > 0) await o.onRouted?.(tx, routed);
      if (batch.length > 0) await deleteOutbox(tx, batch.map((item) => item.row.id)); // prettier-ignore
      if (postponed.length > 0) await postponeOutbox(tx, postponed);
    });
  }

  function later(ms: number, work: () => void): void {
    const timer = setTimeout(() => {
      timers.delete(timer);
      work();
    }, ms);
    timers.add(timer);
  }

  function retryLater(item: Done, error: unknown): void {
    item.failures++;
    waitingForRetry++;
    o.logger.error(
      { err: error, message_id: item.row.message.id, type: item.row.message.type, failures: item.failures },
      "a routed message could not be settled; trying again",
    );
    later(Math.min(pauseMaxMs, 250 * 2 ** item.failures), () => {
      waitingForRetry--;
      done.push(item);
      void run();
    });
  }

  async function settle(batch: readonly Done[], postponed: readonly FailedPublish[]): Promise<void> {
    try {
      await write(batch, postponed);
      outages = 0;
    } catch (error) {
      if (error instanceof MusterError && error.retriable) throw error;
      if (batch.length === 1 && batch[0] !== undefined) return retryLater(batch[0], error);
      for (const item of batch) await settle([item], []);
    }
  }

  async function run(): Promise<void> {
    if (running || stopped) return;
    running = true;
    while (done.length + failed.length > 0 && !stopped) {
      const batch = done.splice(0, batchMax);
      const postponed = failed.splice(0, batchMax);
      busy = batch.length;
      try {
        await settle(batch, postponed);
      } catch (error) {
        // The database is away. Postponements may be lost with it: those rows come back when their lease ends.
        done.unshift(...batch);
        outages++;
        o.logger.warn({ err: error, rows: done.length }, "the outbox cannot be settled for now");
        busy = 0;
        running = false;
        later(Math.min(5_000, 100 * 2 ** outages) * (0.5 + Math.random() / 2), () => void run());
        return;
      }
      busy = 0;
    }
    running = false;
    if (size() === 0) whenEmpty?.();
  }

  const add = (row: OutboxRow, routed: boolean): void => {
    done.push({ row, routed, failures: 0 });
    void run();
  };
  return {
    get size() {
      return size();
    },
    routed: (row) => add(row, true),
    dropped: (row) => add(row, false),
    postponed(item) {
      failed.push(item);
      void run();
    },
    async drain(timeoutMs) {
      if (size() === 0 && !running) return;
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        whenEmpty = resolve;
        timer = setTimeout(resolve, timeoutMs);
      });
      clearTimeout(timer);
    },
    stop() {
      stopped = true;
      for (const timer of timers) clearTimeout(timer);
      timers.clear();
    },
  };
}
