import { MusterError } from "@muster/contracts/errors";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import type { Sequelize } from "sequelize";
import { makeSequelize } from "./connection.ts";
import { faultKind } from "./faults.ts";
import { makeOutboxDesk, type OutboxDesk, type OutboxState } from "./outbox-desk.ts";
import { systemRoleOf, type Scope } from "./scope.ts";
import { runTransaction, type TransactionHost, type TransactionOptions, type Tx } from "./transaction.ts";

export type { Scope } from "./scope.ts";
export type { TransactionOptions, Tx } from "./transaction.ts";

export interface DatabaseHealth {
  ok: boolean;
  reason?: string;
  detail?: unknown;
}

export interface Database {
  readonly schema: string;
  /** For defining models; calls outside a transaction run as the login role with no tenant, and see nothing. */
  readonly sequelize: Sequelize;
  /**
   * Runs the work in one transaction that sees what the scope says. Deadlocks and serialization failures run the
   * work again, so it must have no effect outside the transaction.
   * Throws DEPENDENCY_UNAVAILABLE (server away or too slow), BACKPRESSURE (pool exhausted), DRAINING (closed),
   * CommitUnknownError (cut off during COMMIT), or what the work threw.
   */
  transaction<T>(scope: Scope, work: (tx: Tx) => Promise<T>, options?: TransactionOptions): Promise<T>;
  health(): DatabaseHealth;
  /** How much is written and not yet on the broker, as this process's relay last saw it; zeros without a relay. */
  outboxState(): OutboxState;
  /** Where the relay of this process attaches. */
  readonly desk: OutboxDesk;
  /** Refuses new transactions, waits for the running ones (10 s at most), closes the connections. */
  close(): Promise<void>;
}

export interface DatabaseOptions {
  /** postgres://role:password@host:port/database; the role is the service's login role. */
  readonly url: string;
  readonly schema: string;
  readonly applicationName: string;
  readonly poolMax: number;
  readonly statementTimeoutMs: number;
  /** How long a transaction waits for a connection. Default 5 s. */
  readonly acquireTimeoutMs?: number;
  /** How many transactions may wait for a connection; more are refused at once. Default 100 per connection. */
  readonly waitingMax?: number;
  readonly probeMs?: number;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

const drainMs = 10_000;

/** Opens the pool and resolves once a transaction under the system role has gone through. */
export async function openDatabase(o: DatabaseOptions): Promise<Database> {
  const sequelize = makeSequelize({ ...o, acquireTimeoutMs: o.acquireTimeoutMs ?? 5_000 });
  const desk = makeOutboxDesk();
  const watch = watchHealth(o);
  const host: TransactionHost = {
    sequelize,
    systemRole: systemRoleOf(o.schema),
    desk,
    observe: watch.observe,
  };
  const runningMax = o.poolMax + (o.waitingMax ?? o.poolMax * 100);
  const running = countRunning(o.metrics);
  let closing: Promise<void> | undefined;

  async function transaction<T>(
    scope: Scope,
    work: (tx: Tx) => Promise<T>,
    options: TransactionOptions = {},
  ) {
    if (closing !== undefined) throw new MusterError("DRAINING");
    if (running.count() >= runningMax) {
      throw new MusterError("BACKPRESSURE", "too many transactions wait for a connection", {
        retryAfterMs: 1_000,
      });
    }
    running.enter();
    try {
      return await runTransaction(host, scope, work, options);
    } finally {
      running.leave();
    }
  }

  const probe = (): Promise<unknown> =>
    transaction("system", (tx) => tx.query("SELECT 1"), { readOnly: true });
  try {
    await probe();
  } catch (error) {
    await sequelize.close();
    throw error;
  }
  const stopProbing = watch.probeEvery(o.probeMs ?? 5_000, probe);

  async function shut(): Promise<void> {
    stopProbing();
    if (!(await running.idle(drainMs))) {
      o.logger.warn(
        { running: running.count() },
        "transactions still run; closing their connections under them",
      );
    }
    await Promise.race([sequelize.close(), after(drainMs)]);
  }
  return {
    schema: o.schema,
    sequelize,
    transaction,
    desk,
    outboxState: () => desk.state(),
    health: () => ({ ...watch.health(), detail: { running: running.count(), poolMax: o.poolMax } }),
    close: () => (closing ??= shut()),
  };
}

/** Health is what the last transaction met; an idle database is probed, a busy one is not. */
function watchHealth(o: DatabaseOptions) {
  const seconds = o.metrics.histogram({
    name: "muster_database_transaction_seconds",
    help: "Time of one attempt at a transaction, waiting for a connection included",
    labels: ["outcome"],
  });
  let lastGoodMs = 0;
  let reason: string | undefined;

  function observe(outcome: string, took: number, error?: unknown): void {
    seconds.observe({ outcome }, took);
    if (outcome !== "failed") {
      lastGoodMs = Date.now();
      if (reason !== undefined) o.logger.info("the database answers again");
      reason = undefined;
      return;
    }
    if (faultKind(error) !== "lost") return;
    const text = error instanceof Error ? error.message : String(error);
    if (reason === undefined) o.logger.error({ err: error }, "the database does not answer");
    reason = text;
  }
  return {
    observe,
    health: (): DatabaseHealth => (reason === undefined ? { ok: true } : { ok: false, reason }),
    probeEvery(everyMs: number, probe: () => Promise<unknown>): () => void {
      const timer = setInterval(() => {
        if (reason === undefined && Date.now() - lastGoodMs < everyMs) return;
        // What it meets is observed where it met it.
        probe().catch(() => undefined);
      }, everyMs);
      timer.unref();
      return () => clearInterval(timer);
    },
  };
}

function countRunning(metrics: Metrics) {
  const gauge = metrics.gauge({
    name: "muster_database_transactions_running",
    help: "Transactions under way or waiting for a connection",
  });
  let count = 0;
  let whenIdle: (() => void) | undefined;
  return {
    count: () => count,
    enter: () => gauge.set(++count),
    leave(): void {
      gauge.set(--count);
      if (count === 0) whenIdle?.();
    },
    /** True if nothing ran any more within the time. */
    async idle(timeoutMs: number): Promise<boolean> {
      if (count === 0) return true;
      await Promise.race([new Promise<void>((resolve) => (whenIdle = resolve)), after(timeoutMs)]);
      return count === 0;
    },
  };
}

function after(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}
