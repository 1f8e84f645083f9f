import type { PayloadOf } from "@muster/contracts/define";
import { uuidv7 } from "@muster/contracts/ids";
import type { deadLetterFilter } from "@muster/contracts/reliability";
import type { commandDeadLettered } from "@muster/contracts/vm-ops";
import type { Tx } from "@muster/database/database";
import type { z } from "zod";
import { queueKindOf } from "./queues.ts";
import type { QueueKind } from "./queues.ts";
import type { Death } from "./read-death.ts";
import { storableText } from "./storable.ts";

export type DeadLetterState = "open" | "replayed" | "discarded";
export type Filter = z.infer<typeof deadLetterFilter>;

/** A dead letter without its body, headers and history. */
export interface DeadLetterRow {
  readonly id: string;
  readonly tenant_id: string | null;
  readonly kind: "message" | "command";
  readonly state: DeadLetterState;
  readonly queue: string;
  readonly reason: string;
  readonly type: string;
  readonly message_id: string;
  readonly command_id: string | null;
  readonly command_kind: "run" | "cancel" | null;
  readonly vm_uuid: string | null;
  readonly correlation_id: string | null;
  readonly last_error: string | null;
  readonly deaths: number;
  readonly body_bytes: number;
  readonly body_cut: boolean;
  readonly died_at: Date;
  readonly recorded_at: Date;
  readonly settled_at: Date | null;
  readonly settled_by: string | null;
  readonly settle_reason: string | null;
}

export interface DeadLetterDetailRow extends DeadLetterRow {
  readonly exchange: string;
  readonly routing_key: string;
  readonly content_type: string | null;
  readonly headers: Record<string, unknown>;
  readonly history: Record<string, unknown>[];
  readonly body: Buffer;
  readonly replays: number;
  /** A replay through vm-ops is under way now. */
  readonly replaying: boolean;
  /** One was under way whose end nobody wrote down. */
  readonly replay_lapsed: boolean;
}

export interface AuditRow {
  readonly at: Date;
  readonly actor: string;
  readonly action: AuditAction;
  readonly note: string | null;
}
export type AuditAction = "recorded" | "replay_requested" | "replay_refused" | "replayed" | "discarded";

const summaryColumns = `id, tenant_id, kind, state, queue, reason, type, message_id, command_id, command_kind,
  vm_uuid, correlation_id, last_error, deaths, body_bytes, body_bytes > octet_length(body) AS body_cut, died_at,
  recorded_at, settled_at, settled_by, settle_reason`;
const detailColumns = `${summaryColumns}, exchange, routing_key, content_type, headers, history, body, replays,
  coalesce(replaying_until > clock_timestamp(), false) AS replaying,
  coalesce(replaying_until <= clock_timestamp(), false) AS replay_lapsed`;

export interface RecordedRow {
  readonly id: string;
  readonly death_key: string;
  readonly died_at: Date;
}

/** Writes the deaths that are new down, with their first audit row; answers those. */
export async function insertDeaths(tx: Tx, deaths: readonly Death[]): Promise<RecordedRow[]> {
  const rows = deaths.map((death) => ({
    id: uuidv7(),
    tenant_id: death.tenantId,
    death_key: death.key,
    queue: death.queue,
    queue_kind: queueKindOf(death.queue),
    reason: death.reason,
    exchange: death.exchange,
    routing_key: death.routingKey,
    type: death.type,
    message_id: death.messageId,
    content_type: death.contentType,
    command_id: death.command?.command_id ?? null,
    vm_uuid: death.vmUuid,
    command_attempt: death.command?.attempt ?? null,
    command_kind: death.command?.kind ?? null,
    correlation_id: death.correlationId,
    last_error: death.lastError,
    deaths: Math.min(death.deaths, 2_147_483_647),
    headers: death.headers,
    history: death.history,
    body_bytes: death.bodyBytes,
    died_at_ms: death.diedAtMs,
  }));
  const bodies = deaths.map((death) => death.body);
  // Sorted by the key, so that two recorders of the same deaths wait for each other instead of deadlocking.
  return tx.query<RecordedRow>(
    `WITH fresh AS (
       INSERT INTO dead_letters (id, tenant_id, kind, death_key, queue, queue_kind, reason, exchange, routing_key,
         type, message_id, content_type, command_id, vm_uuid, command_attempt, command_kind, correlation_id,
         last_error, deaths, headers, history, body, body_bytes, died_at)
       SELECT d.id, d.tenant_id, 'message', d.death_key, d.queue, d.queue_kind, d.reason, d.exchange, d.routing_key,
         d.type, d.message_id, d.content_type, d.command_id, d.vm_uuid, d.command_attempt, d.command_kind,
         d.correlation_id, d.last_error, d.deaths, d.headers, d.history, d.unnest, d.body_bytes,
         coalesce(to_timestamp(d.died_at_ms / 1000.0), clock_timestamp())
       FROM ROWS FROM (jsonb_to_recordset($1::jsonb) AS (id uuid, tenant_id text, death_key text, queue text,
         queue_kind text, reason text, exchange text, routing_key text, type text, message_id text,
         content_type text, command_id uuid, vm_uuid uuid, command_attempt integer, command_kind text,
         correlation_id text, last_error text, deaths integer, headers jsonb, history jsonb, body_bytes bigint,
         died_at_ms double precision), unnest($2::bytea[])) AS d
       ORDER BY d.death_key
       ON CONFLICT (death_key) DO NOTHING
       RETURNING id, tenant_id, death_key, died_at, queue, reason),
     noted AS (
       INSERT INTO dead_letter_audit (dead_letter_id, tenant_id, actor, action, note)
       SELECT id, tenant_id, 'service:reliability', 'recorded', reason || ' in ' || queue FROM fresh)
     SELECT id, death_key, died_at FROM fresh`,
    [JSON.stringify(rows), bodies],
  );
}

/** One command that vm-ops gave up; `messageId` is the event's, so that it is written down once. */
export async function insertCommand(
  tx: Tx,
  messageId: string,
  tenantId: string,
  queue: string,
  event: PayloadOf<typeof commandDeadLettered>,
): Promise<number> {
  return tx.execute(
    `WITH fresh AS (
       INSERT INTO dead_letters (id, tenant_id, kind, death_key, queue, queue_kind, reason, exchange, routing_key, type,
         message_id, command_id, vm_uuid, command_attempt, command_kind, correlation_id, last_error, deaths, body,
         body_bytes, died_at)
       VALUES ($1, $2::text, 'command', 'command:' || $3::text, $4::text, 'command', $5, '', $4::text, $6, $3::text, $7, $8, $9, 'run', $10, $11,
         $12, convert_to($13::text, 'UTF8'), octet_length($13::text), $14)
       ON CONFLICT (death_key) DO NOTHING RETURNING id, tenant_id, reason)
     INSERT INTO dead_letter_audit (dead_letter_id, tenant_id, actor, action, note)
     SELECT id, tenant_id, 'service:reliability', 'recorded', reason FROM fresh`,
    [
      uuidv7(),
      tenantId,
      messageId,
      queue,
      event.reason,
      event.action,
      event.command_id,
      event.vm_uuid,
      event.attempt,
      storableText(event.correlation_id, 128),
      event.last_error === null ? null : storableText(event.last_error, 2_000),
      Math.min(event.attempt, 2_147_483_647),
      JSON.stringify(event),
      event.at,
    ],
  );
}

/** Newest first, from `beforeId` on; one more than the page, to know whether there is more. */
export function listDeadLetters(
  tx: Tx,
  o: { filter: Filter; limit: number; beforeId: string | undefined; oldestFirst?: boolean },
): Promise<DeadLetterRow[]> {
  const values: unknown[] = [o.limit + 1];
  const wanted = ["state", "kind", "queue", "type", "reason", "vm_uuid"] as const;
  const conditions = wanted.flatMap((column) => {
    const value = o.filter[column];
    return value === undefined ? [] : [`${column} = $${values.push(value)}`];
  });
  if (o.beforeId !== undefined) conditions.push(`id < $${values.push(o.beforeId)}`);
  const where = conditions.length === 0 ? "" : `WHERE ${conditions.join(" AND ")}`;
  const order = o.oldestFirst === true ? "ASC" : "DESC";
  return tx.query<DeadLetterRow>(
    `SELECT ${summaryColumns} FROM dead_letters ${where} ORDER BY id ${order} LIMIT $1`,
    values,
  );
}

export async function readDeadLetter(
  tx: Tx,
  id: string,
  lock: "" | "FOR UPDATE" = "",
): Promise<DeadLetterDetailRow | undefined> {
  const rows = await tx.query<DeadLetterDetailRow>(
    `SELECT ${detailColumns} FROM dead_letters WHERE id = $1 ${lock}`,
    [id],
  );
  return rows[0];
}

export function readAudit(tx: Tx, id: string): Promise<AuditRow[]> {
  return tx.query<AuditRow>(
    "SELECT at, actor, action, note FROM dead_letter_audit WHERE dead_letter_id = $1 ORDER BY id LIMIT 1000",
    [id],
  );
}

export interface Settlement {
  readonly state: "replayed" | "discarded";
  readonly actor: string;
  readonly note: string;
}

/** Ends an open dead letter, with its audit row; false when it was not open any more. */
export async function settle(tx: Tx, id: string, how: Settlement): Promise<boolean> {
  const changed = await tx.execute(
    `UPDATE dead_letters SET state = $2, settled_at = clock_timestamp(), settled_by = $3, settle_reason = $4,
       replays = replays + CASE $2 WHEN 'replayed' THEN 1 ELSE 0 END, replaying_until = NULL, replaying_by = NULL
     WHERE id = $1 AND state = 'open'`,
    [id, how.state, how.actor, how.note],
  );
  if (changed === 0) return false;
  await addAudit(tx, id, how.actor, how.state, how.note);
  return true;
}

export async function addAudit(
  tx: Tx,
  id: string,
  actor: string,
  action: AuditAction,
  note: string | null,
): Promise<void> {
  await tx.execute(
    `INSERT INTO dead_letter_audit (dead_letter_id, tenant_id, actor, action, note)
     SELECT id, tenant_id, $2, $3, $4 FROM dead_letters WHERE id = $1`,
    [id, actor, action, note],
  );
}

/** Says that a replay through vm-ops is under way, for `forMs`. To be called with the row locked. */
export async function markReplaying(tx: Tx, id: string, actor: string, forMs: number): Promise<void> {
  await tx.execute(
    `UPDATE dead_letters SET replaying_by = $2,
       replaying_until = clock_timestamp() + $3 * interval '1 millisecond' WHERE id = $1`,
    [id, actor, forMs],
  );
}

/** `refused`: vm-ops did nothing. `unknown`: it may have; the mark lapses at once, and stays. */
export async function endReplaying(
  tx: Tx,
  id: string,
  actor: string,
  end: "refused" | "unknown",
): Promise<void> {
  await tx.execute(
    `UPDATE dead_letters SET replaying_until = CASE $3 WHEN 'unknown' THEN clock_timestamp() END,
       replaying_by = CASE $3 WHEN 'unknown' THEN replaying_by END
     WHERE id = $1 AND state = 'open' AND replaying_by = $2`,
    [id, actor, end],
  );
}

/** Who asked for the replay that vm-ops says it has done. */
export async function replayerOf(tx: Tx, id: string): Promise<string | undefined> {
  const rows = await tx.query<{ replaying_by: string | null }>(
    "SELECT replaying_by FROM dead_letters WHERE id = $1 AND state = 'open' FOR UPDATE",
    [id],
  );
  return rows[0] === undefined ? undefined : (rows[0].replaying_by ?? "service:vm-ops");
}

export function countOpen(tx: Tx): Promise<{ queue_kind: QueueKind; open: number }[]> {
  return tx.query(
    "SELECT queue_kind, count(*) AS open FROM dead_letters WHERE state = 'open' GROUP BY queue_kind",
  );
}
