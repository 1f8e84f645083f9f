import type { Broker } from "@muster/broker/broker";
import type { Database, Tx } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import type { VmOpsMetrics } from "../metrics.ts";
import { interruptionGapMs, outageGapMs } from "./rules.ts";

/** Keeps the record of when database and broker were last both in reach, by the database's clock. */
export interface Liveness {
  close(): Promise<void>;
}

const everyMs = 5_000;

const amnestyColumn = "(extract(epoch FROM amnesty_until - now()) * 1000)::float8 AS amnesty_ms";

/** One touch. After a gap leases are forgiven for as long again, and two leases more. Answers how long the outage was. */
export async function touchLiveness(
  tx: Tx,
  leaseMs: number,
): Promise<{ outageMs: number; amnestyMs: number }> {
  const [before] = await tx.query<{ gap_ms: number }>(
    "SELECT (extract(epoch FROM now() - touched_at) * 1000)::float8 AS gap_ms FROM liveness FOR UPDATE",
  );
  const gapMs = before?.gap_ms ?? 0;
  const outageMs = gapMs > outageGapMs ? gapMs : 0;
  const interrupted = gapMs > interruptionGapMs;
  const [after] = await tx.query<{ amnesty_ms: number }>(
    `INSERT INTO liveness AS l (touched_at, resumed_at, amnesty_until) VALUES (now(), now() - interval '1 day', now())
     ON CONFLICT (only_row) DO UPDATE SET
       touched_at = greatest(l.touched_at, now()),
       resumed_at = CASE WHEN $3::boolean THEN now() ELSE l.resumed_at END,
       amnesty_until = CASE WHEN $1::float8 > 0
         THEN greatest(l.amnesty_until, now() + ($1::float8 + 2 * $2::float8) * interval '1 ms')
         ELSE l.amnesty_until END,
       outages = l.outages + CASE WHEN $1::float8 > 0 THEN 1 ELSE 0 END
     RETURNING ${amnestyColumn}`,
    [outageMs, leaseMs, interrupted],
  );
  return { outageMs, amnestyMs: left(after) };
}

/** How long leases are still forgiven, in ms. */
export async function amnestyMs(tx: Tx): Promise<number> {
  return left((await tx.query<{ amnesty_ms: number }>(`SELECT ${amnestyColumn} FROM liveness`))[0]);
}

const left = (row: { amnesty_ms: number } | undefined): number =>
  Math.max(0, Math.ceil(row?.amnesty_ms ?? 0));

/** Touches at once, so that an outage of this service itself is seen before its first sweep, then every 5 s. */
export async function openLiveness(o: {
  database: Pick<Database, "transaction">;
  broker: Pick<Broker, "state">;
  leaseMs: number;
  metrics: Pick<VmOpsMetrics, "amnesty">;
  logger: Logger;
}): Promise<Liveness> {
  async function touch(): Promise<void> {
    if (o.broker.state !== "connected") return;
    const touched = await o.database.transaction("system", (tx) => touchLiveness(tx, o.leaseMs));
    const { outageMs } = touched;
    o.metrics.amnesty.set(touched.amnestyMs / 1_000);
    if (outageMs > 0) o.logger.warn({ outage_ms: outageMs }, "back after an outage: leases are forgiven");
  }
  await touch();
  let running: Promise<void> = Promise.resolve();
  const timer = setInterval(() => {
    running = running.then(touch).catch((error: unknown) => {
      o.logger.debug({ err: error }, "liveness could not be touched");
    });
  }, everyMs);
  timer.unref();
  return {
    async close() {
      clearInterval(timer);
      await running;
    },
  };
}
