import type { PreparedMessage } from "@muster/contracts/message";
import type { Arrival } from "./outbox-memory.ts";
import type { Tx } from "./transaction.ts";

/** A count of the table stops here; more than this reads as this. */
export const outboxDepthMax = 10_000;

interface ClaimedRow {
  readonly id: number;
  readonly message_id: string;
  readonly type: string;
  readonly exchange: string;
  readonly routing_key: string;
  readonly ordering_key: string | null;
  readonly tenant_id: string | null;
  readonly body: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly attempts: number;
  readonly after: number | null;
}

/**
 * Leases the oldest due rows to this process. A row that another relay is leasing at this moment is passed over;
 * should it be the predecessor of one that is claimed, `after` says so, and that one is not published.
 * Not prepared: a plan made for the usual few rows would serve a backlog badly.
 */
export async function claimOutbox(tx: Tx, limit: number, leaseMs: number): Promise<Arrival[]> {
  const rows = await tx.query<ClaimedRow>(
    `WITH due AS (
       SELECT id FROM outbox WHERE next_attempt_at <= clock_timestamp() ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
     ), claimed AS (
       UPDATE outbox o SET next_attempt_at = clock_timestamp() + $2 * interval '1 millisecond'
       FROM due WHERE o.id = due.id RETURNING o.*
     )
     SELECT c.id, c.message_id, c.type, c.exchange, c.routing_key, c.ordering_key, c.tenant_id, c.body, c.headers,
       c.attempts,
       (SELECT max(e.id) FROM outbox e WHERE e.ordering_key = c.ordering_key AND e.id < c.id) AS after
     FROM claimed c ORDER BY c.id`,
    [limit, leaseMs],
  );
  return rows.map((row) => ({
    id: row.id,
    message: messageOf(row),
    after: row.after,
    attempts: row.attempts,
  }));
}

function messageOf(row: ClaimedRow): PreparedMessage {
  return {
    id: row.message_id,
    type: row.type,
    exchange: row.exchange,
    routingKey: row.routing_key,
    orderingKey: row.ordering_key,
    tenantId: row.tenant_id,
    body: row.body,
    headers: row.headers,
  };
}

export interface OutboxMeasure {
  /** Rows that wait for the broker, and the age of the oldest of them. */
  readonly depth: number;
  readonly oldestAgeMs: number;
  /** Rows whose own destination does not take them (full, gone, stuck), and those of the same keys behind them. */
  readonly heldBack: number;
  /** Age of the oldest row of all. */
  readonly oldestOfAllMs: number;
}

/** Tells rows that everybody waits for from rows that only one destination holds up: these must not slow others. */
export async function measureOutbox(tx: Tx): Promise<OutboxMeasure> {
  const [row] = await tx.query<{ all_rows: number; depth: number; moving_ms: number; oldest_ms: number }>(
    `WITH looked AS MATERIALIZED (
       SELECT id, ordering_key, attempts, created_at FROM outbox ORDER BY id LIMIT ${outboxDepthMax}
     ), held AS (
       SELECT ordering_key, min(id) AS id FROM looked WHERE attempts > 0 AND ordering_key IS NOT NULL GROUP BY 1
     ), told AS (
       SELECT extract(epoch FROM clock_timestamp() - l.created_at)::float8 * 1000 AS age_ms,
         l.attempts = 0 AND h.id IS NULL AS moves
       FROM looked l LEFT JOIN held h ON h.ordering_key = l.ordering_key AND h.id < l.id
     )
     SELECT count(*)::int AS all_rows, count(*) FILTER (WHERE moves)::int AS depth,
       coalesce(max(age_ms) FILTER (WHERE moves), 0) AS moving_ms, coalesce(max(age_ms), 0) AS oldest_ms FROM told`,
    [],
    { name: "muster_outbox_measure" },
  );
  const { all_rows = 0, depth = 0, moving_ms = 0, oldest_ms = 0 } = row ?? {};
  return {
    // what lies beyond the look is unknown: then all count
    depth: all_rows < outboxDepthMax ? depth : all_rows,
    oldestAgeMs: Math.max(0, moving_ms),
    heldBack: all_rows - depth,
    oldestOfAllMs: Math.max(0, oldest_ms),
  };
}

export async function deleteOutbox(tx: Tx, ids: readonly number[]): Promise<void> {
  await tx.query("DELETE FROM outbox WHERE id = ANY ($1::bigint[])", [ids], { name: "muster_outbox_delete" });
}

export async function presentOutbox(tx: Tx, ids: readonly number[]): Promise<Set<number>> {
  const rows = await tx.query<{ id: number }>("SELECT id FROM outbox WHERE id = ANY ($1::bigint[])", [ids], {
    name: "muster_outbox_present",
  });
  return new Set(rows.map((row) => row.id));
}

export interface FailedPublish {
  readonly id: number;
  readonly attempts: number;
  readonly verdict: string;
  readonly retryAfterMs: number;
}

/** Writes down what became of publishes that go back to the table, and when any relay may try again. */
export async function postponeOutbox(tx: Tx, failed: readonly FailedPublish[]): Promise<void> {
  await tx.query(
    `UPDATE outbox o SET attempts = f.attempts, last_verdict = f.verdict,
       next_attempt_at = clock_timestamp() + f.retry_ms * interval '1 millisecond'
     FROM unnest($1::bigint[], $2::int[], $3::text[], $4::float8[]) AS f(id, attempts, verdict, retry_ms)
     WHERE o.id = f.id`,
    [
      failed.map((f) => f.id),
      failed.map((f) => f.attempts),
      failed.map((f) => f.verdict.slice(0, 500)),
      failed.map((f) => f.retryAfterMs),
    ],
  );
}

/** Gives leased rows back at once. */
export async function releaseOutbox(tx: Tx, ids: readonly number[]): Promise<void> {
  await tx.query("UPDATE outbox SET next_attempt_at = clock_timestamp() WHERE id = ANY ($1::bigint[])", [
    ids,
  ]);
}
