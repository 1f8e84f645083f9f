import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import type { Database } from "./database.ts";
import type { OutboxState, WrittenMessage } from "./outbox-desk.ts";
import type { OutboxMemory } from "./outbox-memory.ts";
import { claimOutbox, measureOutbox, presentOutbox } from "./outbox-store.ts";

export interface Poller {
  /** The first look; rejects if the table cannot be read. */
  start(): Promise<void>;
  /** Takes messages of a commit into memory, and watches over rows of other processes that they wait for. */
  admit(written: readonly WrittenMessage[]): void;
  /** Looks into the table in so many milliseconds, or sooner. */
  within(ms: number): void;
  /** Memory got emptier: a backlog is read on without waiting. */
  roomMade(): void;
  seen(): OutboxState;
  stop(): Promise<void>;
}

const recheckMinMs = 10;
const recheckMaxMs = 250;

export function makePoller(o: {
  database: Database;
  memory: OutboxMemory;
  limits: { pollMs: number; pollBatch: number; graceMs: number };
  logger: Logger;
  metrics: Metrics;
  mayClaim: () => boolean;
  arrived: () => void;
}): Poller {
  const { memory, limits } = o;
  const depth = o.metrics.gauge({ name: "muster_outbox_depth", help: "Rows of the outbox, 10 000 at most" });
  const oldest = o.metrics.gauge({ name: "muster_outbox_oldest_seconds", help: "Age of its oldest row" });
  let seen: OutboxState = { depth: 0, oldestAgeMs: 0 };
  let timer: NodeJS.Timeout | undefined;
  let timerDueMs = Infinity;
  let polling: Promise<void> | undefined;
  let again = false;
  let backlog = false;
  let failing = false;
  let stopped = false;
  let recheckTimer: NodeJS.Timeout | undefined;
  let recheckMs = recheckMinMs;

  async function look(): Promise<void> {
    const nowMs = performance.now();
    memory.expire(nowMs);
    const limit = o.mayClaim() ? limits.pollBatch - memory.polled : 0;
    const { rows, state } = await o.database.transaction("system", async (tx) => ({
      rows: limit > 0 ? await claimOutbox(tx, limit, limits.graceMs) : [],
      state: await measureOutbox(tx),
    }));
    seen = state;
    depth.set(state.depth);
    oldest.set(state.oldestAgeMs / 1_000);
    backlog = limit > 0 && rows.length === limit;
    for (const row of rows) {
      // A follower of a row that is not here would only take room; it comes up again when its lease is over.
      if (memory.isOwn(row.after)) memory.add(row, "poll", nowMs, limits.graceMs);
    }
    if (rows.length > 0) o.arrived();
  }

  function poll(): Promise<void> {
    timerDueMs = Infinity;
    clearTimeout(timer);
    polling ??= pollOnce().finally(() => {
      polling = undefined;
      within(again ? 0 : limits.pollMs * (0.8 + Math.random() * 0.4));
      again = false;
    });
    return polling;
  }

  async function pollOnce(): Promise<void> {
    try {
      await look();
      failing = false;
    } catch (error) {
      if (!failing) o.logger.warn({ err: error }, "the outbox cannot be read; trying again");
      failing = true;
    }
  }

  function within(ms: number): void {
    if (stopped) return;
    const dueMs = performance.now() + ms;
    if (polling !== undefined) {
      if (ms === 0) again = true;
      return;
    }
    if (dueMs >= timerDueMs) return;
    clearTimeout(timer);
    timerDueMs = dueMs;
    timer = setTimeout(() => void poll(), ms);
  }

  async function recheck(): Promise<void> {
    const awaited = memory.foreign();
    if (awaited.length === 0 || stopped) return;
    try {
      const present = await o.database.transaction("system", (tx) => presentOutbox(tx, awaited));
      const left = awaited.filter((id) => !present.has(id));
      for (const id of left) memory.gone(id);
      if (left.length > 0) o.arrived();
    } catch (error) {
      o.logger.debug({ err: error }, "rows waited for could not be looked up");
    }
    recheckMs = Math.min(recheckMaxMs, recheckMs * 2);
    recheckSoon();
  }

  function recheckSoon(): void {
    if (stopped || recheckTimer !== undefined) return;
    recheckTimer = setTimeout(() => {
      recheckTimer = undefined;
      void recheck();
    }, recheckMs);
  }

  return {
    async start() {
      await look();
      within(limits.pollMs);
    },
    admit(written) {
      const nowMs = performance.now();
      for (const one of written) {
        if (!memory.isOwn(one.after)) {
          recheckMs = recheckMinMs;
          recheckSoon();
        }
        memory.add(one, "memory", nowMs, limits.graceMs);
      }
    },
    within,
    roomMade() {
      if (backlog && memory.polled < limits.pollBatch / 2) {
        backlog = false;
        within(0);
      }
    },
    seen: () => seen,
    async stop() {
      stopped = true;
      clearTimeout(timer);
      clearTimeout(recheckTimer);
      await polling;
    },
  };
}
