import { effects } from "@muster/contracts/commands";
import type { Effect } from "@muster/contracts/commands";
import { followUpStates, rotationReasons, rotationStates } from "@muster/contracts/rotations";
import type { RotationReason, RotationSummary, RotationView } from "@muster/contracts/rotations";
import type { Tx } from "@muster/database/database";
import { z } from "zod";

const rotationRow = z.object({
  id: z.string(),
  tenant_id: z.string(),
  secret_id: z.string(),
  state: z.enum(rotationStates),
  reason: z.enum(rotationReasons).nullable(),
  from_version: z.number(),
  to_version: z.number(),
  rollback: z.boolean(),
  requested_by: z.string(),
  correlation_id: z.string(),
  traceparent: z.string().nullable(),
  started_at: z.date(),
  ended_at: z.date().nullable(),
});
export type RotationRow = z.output<typeof rotationRow>;
const rotationColumns = Object.keys(rotationRow.shape).join(", ");

const followUpRow = z.object({
  binding_id: z.string(),
  round: z.number(),
  vm_uuid: z.string(),
  version: z.number(),
  state: z.enum(followUpStates),
  /** Where it is pending: vm-ops may have it. */
  asked: z.boolean(),
  command_id: z.string().nullable(),
  code: z.string().nullable(),
  effect: z.enum(effects).nullable(),
});
export type FollowUpRow = z.output<typeof followUpRow>;
const followUpColumns = Object.keys(followUpRow.shape).join(", ");

export const rotationSummaryOf = (row: RotationRow): RotationSummary => ({
  ...{ id: row.id, secret_id: row.secret_id, state: row.state, reason: row.reason },
  ...{ from_version: row.from_version, to_version: row.to_version, rollback: row.rollback },
  requested_by: row.requested_by,
  started_at: row.started_at.toISOString(),
  ended_at: row.ended_at?.toISOString() ?? null,
});

export const rotationViewOf = (row: RotationRow, followUps: readonly FollowUpRow[]): RotationView => ({
  ...rotationSummaryOf(row),
  follow_ups: followUps.map(({ binding_id, vm_uuid, version, command_id, state, code }) => ({
    ...{ binding_id, vm_uuid, version, command_id, state, code },
  })),
});

export interface RotationKey {
  readonly tenantId: string;
  readonly rotationId: string;
}
export interface FollowUpKey extends RotationKey {
  readonly bindingId: string;
  readonly round: number;
}

const keyOf = (key: FollowUpKey) => [key.tenantId, key.rotationId, key.bindingId, key.round];
const isIt = "tenant_id = $1 AND rotation_id = $2 AND binding_id = $3 AND round = $4";

export async function hasRunning(tx: Tx, tenantId: string, secretId: string): Promise<boolean> {
  const rows = await tx.query(
    "SELECT 1 FROM rotations WHERE tenant_id = $1 AND secret_id = $2 AND ended_at IS NULL",
    [tenantId, secretId],
  );
  return rows.length > 0;
}

export interface NewRotation extends RotationKey {
  readonly secretId: string;
  readonly from: number;
  readonly to: number;
  readonly rollback: boolean;
  readonly requestedBy: string;
  readonly correlationId: string;
  readonly traceparent: string | undefined;
}

/** With a follow-up for each binding that has one; false, and nothing, where none has. Under the secret's lock. */
export async function insertRotation(tx: Tx, o: NewRotation): Promise<boolean> {
  const inserted = await tx.execute(
    `INSERT INTO rotations (id, tenant_id, secret_id, from_version, to_version, rollback, requested_by, correlation_id,
       traceparent)
     SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9
      WHERE EXISTS (SELECT 1 FROM bindings WHERE tenant_id = $2 AND secret_id = $3 AND follow_up IS NOT NULL)`,
    [
      ...[o.rotationId, o.tenantId, o.secretId, o.from, o.to, o.rollback, o.requestedBy, o.correlationId],
      o.traceparent ?? null,
    ],
  );
  if (inserted === 0) return false;
  await tx.execute(
    `INSERT INTO follow_ups (tenant_id, rotation_id, binding_id, round, vm_uuid, version, command)
     SELECT tenant_id, $3, id, 1, (target ->> 'vm_uuid')::uuid, $4, follow_up FROM bindings
      WHERE tenant_id = $1 AND secret_id = $2 AND follow_up IS NOT NULL ORDER BY id`,
    [o.tenantId, o.secretId, o.rotationId, o.to],
  );
  return true;
}

/** The way back: once more to these, as they were told on the way there. */
export async function insertWayBack(tx: Tx, row: RotationRow, bindingIds: readonly string[]): Promise<void> {
  await tx.execute(
    `INSERT INTO follow_ups (tenant_id, rotation_id, binding_id, round, vm_uuid, version, command)
     SELECT tenant_id, rotation_id, binding_id, 2, vm_uuid, $4, command FROM follow_ups
      WHERE tenant_id = $1 AND rotation_id = $2 AND round = 1 AND binding_id = ANY ($3)`,
    [row.tenant_id, row.id, bindingIds, row.from_version],
  );
}

export async function findRotation(tx: Tx, key: RotationKey): Promise<RotationRow | undefined> {
  const [row] = await tx.query(`SELECT ${rotationColumns} FROM rotations WHERE tenant_id = $1 AND id = $2`, [
    key.tenantId,
    key.rotationId,
  ]);
  return row === undefined ? undefined : rotationRow.parse(row);
}

/** Held until the transaction ends; after its secret, always. */
export async function lockRotation(tx: Tx, key: RotationKey): Promise<RotationRow> {
  const [row] = await tx.query(
    `SELECT ${rotationColumns} FROM rotations WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE`,
    [key.tenantId, key.rotationId],
  );
  return rotationRow.parse(row);
}

/** Newest first, after `before`. */
export async function listRotationRows(
  tx: Tx,
  o: { tenantId: string; secretId: string; before: string | null; limit: number },
): Promise<RotationRow[]> {
  const rows = await tx.query(
    `SELECT ${rotationColumns} FROM rotations
      WHERE tenant_id = $1 AND secret_id = $2 AND ($3::uuid IS NULL OR id < $3) ORDER BY id DESC LIMIT $4`,
    [o.tenantId, o.secretId, o.before, o.limit],
  );
  return rows.map((row) => rotationRow.parse(row));
}

/** Those of the way there first. */
export async function listFollowUps(tx: Tx, key: RotationKey): Promise<FollowUpRow[]> {
  const rows = await tx.query(
    `SELECT ${followUpColumns} FROM follow_ups WHERE tenant_id = $1 AND rotation_id = $2 ORDER BY round, binding_id`,
    [key.tenantId, key.rotationId],
  );
  return rows.map((row) => followUpRow.parse(row));
}

/** From now on vm-ops may have it; false when it is not to be sent any more. */
export async function markAsked(tx: Tx, key: FollowUpKey): Promise<boolean> {
  const text = `UPDATE follow_ups SET asked = true WHERE ${isIt} AND state = 'pending'`;
  return (await tx.execute(text, keyOf(key))) === 1;
}

/** Those that vm-ops cannot have. */
export async function skipPending(tx: Tx, key: RotationKey): Promise<void> {
  await tx.execute(
    `UPDATE follow_ups SET state = 'skipped', ended_at = clock_timestamp()
      WHERE tenant_id = $1 AND rotation_id = $2 AND state = 'pending' AND NOT asked`,
    [key.tenantId, key.rotationId],
  );
}

export async function setRotationState(
  tx: Tx,
  key: RotationKey,
  o: { state: RotationRow["state"]; reason: RotationReason | null },
): Promise<void> {
  await tx.execute(
    `UPDATE rotations SET state = $3, reason = $4,
       ended_at = CASE WHEN $3 IN ('running', 'rolling_back') THEN NULL ELSE clock_timestamp() END
      WHERE tenant_id = $1 AND id = $2`,
    [key.tenantId, key.rotationId, o.state, o.reason],
  );
}

/** vm-ops has it; from `recheckMs` on it is asked after. */
export async function markSent(
  tx: Tx,
  key: FollowUpKey,
  o: { commandId: string; recheckMs: number },
): Promise<void> {
  await tx.execute(
    `UPDATE follow_ups SET state = 'running', command_id = $5, tries = 0,
       due_at = clock_timestamp() + $6 * interval '1 millisecond'
      WHERE ${isIt} AND state IN ('pending', 'running')`,
    [...keyOf(key), o.commandId, o.recheckMs],
  );
}

/** To be sent again, or asked after again. */
export async function postponeFollowUp(
  tx: Tx,
  key: FollowUpKey,
  o: { ms: number; isRefused: boolean },
): Promise<void> {
  await tx.execute(
    `UPDATE follow_ups SET due_at = clock_timestamp() + $5 * interval '1 millisecond', asked = asked AND NOT $6
      WHERE ${isIt}`,
    [...keyOf(key), o.ms, o.isRefused],
  );
}

/** It is given up. Where no answer said so, vm-ops may have it all the same. */
export async function markGivenUp(
  tx: Tx,
  key: FollowUpKey,
  o: { code: string; isRefused: boolean },
): Promise<void> {
  await tx.execute(
    `UPDATE follow_ups SET state = 'failed', code = $5, effect = CASE WHEN $6 THEN 'none' ELSE 'unknown' END,
       ended_at = clock_timestamp()
      WHERE ${isIt} AND state = 'pending'`,
    [...keyOf(key), o.code, o.isRefused],
  );
}

export interface CommandEnd {
  readonly tenantId: string;
  readonly commandId: string;
  readonly succeeded: boolean;
  readonly reason: string;
  readonly effect: Effect;
  readonly attempt: number;
  readonly late: boolean;
}

/** An end that is older than the one that is known changes nothing. */
export async function markEnded(tx: Tx, end: CommandEnd): Promise<void> {
  await tx.execute(
    `UPDATE follow_ups SET state = CASE WHEN $3 THEN 'succeeded' ELSE 'failed' END,
       code = CASE WHEN $3 THEN NULL ELSE $4 END, effect = $5, attempt = $6, late = $7,
       ended_at = coalesce(ended_at, clock_timestamp())
      WHERE tenant_id = $1 AND command_id = $2 AND (attempt IS NULL OR (attempt, late) <= ($6::integer, $7::boolean))`,
    [end.tenantId, end.commandId, end.succeeded, end.reason, end.effect, end.attempt, end.late],
  );
}

const touchedRow = z.object({
  tenant_id: z.string(),
  rotation_id: z.string(),
  secret_id: z.string(),
  command_id: z.string(),
});
export type TouchedRow = z.output<typeof touchedRow>;

/** Which of these commands are follow-ups, in the order in which their secrets are locked. */
export async function findByCommands(tx: Tx, commandIds: readonly string[]): Promise<TouchedRow[]> {
  const rows = await tx.query(
    `SELECT f.tenant_id, f.rotation_id, r.secret_id, f.command_id
       FROM follow_ups f JOIN rotations r ON r.id = f.rotation_id
      WHERE f.command_id = ANY ($1) ORDER BY r.secret_id, f.rotation_id`,
    [commandIds],
  );
  return rows.map((row) => touchedRow.parse(row));
}

const dueRow = z.object({
  tenant_id: z.string(),
  rotation_id: z.string(),
  secret_id: z.string(),
  binding_id: z.string(),
  round: z.number(),
  vm_uuid: z.string(),
  command: z.record(z.string(), z.unknown()),
  state: z.enum(["pending", "running"]),
  tries: z.number(),
  age_ms: z.number(),
  requested_by: z.string(),
  correlation_id: z.string(),
  traceparent: z.string().nullable(),
});
export type DueRow = z.output<typeof dueRow>;

/** To be sent or asked after by whoever takes them, within `leaseMs`. Under the system role. */
export async function takeDue(tx: Tx, o: { limit: number; leaseMs: number }): Promise<DueRow[]> {
  const rows = await tx.query(
    `WITH due AS (
       SELECT rotation_id, binding_id, round FROM follow_ups
        WHERE state IN ('pending', 'running') AND due_at <= clock_timestamp()
        ORDER BY due_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED)
     UPDATE follow_ups f SET tries = f.tries + 1, due_at = clock_timestamp() + $2 * interval '1 millisecond'
       FROM due d, rotations r
      WHERE f.rotation_id = d.rotation_id AND f.binding_id = d.binding_id AND f.round = d.round
        AND r.id = f.rotation_id
     RETURNING f.tenant_id, f.rotation_id, r.secret_id, f.binding_id, f.round, f.vm_uuid, f.command, f.state, f.tries,
       (extract(epoch FROM clock_timestamp() - f.created_at) * 1000)::float8 AS age_ms,
       r.requested_by, r.correlation_id, r.traceparent`,
    [o.limit, o.leaseMs],
  );
  return rows.map((row) => dueRow.parse(row));
}
