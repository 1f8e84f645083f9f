import { bindingAppearance, leaseStates } from "@muster/contracts/secrets";
import type { LeaseView } from "@muster/contracts/secrets";
import type { Tx } from "@muster/database/database";
import { z } from "zod";

const leaseRow = z.object({
  id: z.string(),
  secret_id: z.string(),
  secret_name: z.string(),
  version: z.number(),
  command_id: z.string(),
  attempt: z.number(),
  vm_uuid: z.string(),
  agent_id: z.string(),
  state: z.enum(leaseStates),
  granted_at: z.date(),
  expires_at: z.date(),
  ended_at: z.date().nullable(),
});
export type LeaseRow = z.output<typeof leaseRow>;

/** One whose time is up has expired, whether or not a sweep has come by. */
const state =
  "CASE WHEN l.state = 'active' AND l.expires_at <= clock_timestamp() THEN 'expired' ELSE l.state END";
const columns = `l.id, l.secret_id, s.name AS secret_name, l.version, l.command_id, l.attempt, l.vm_uuid, l.agent_id,
  ${state} AS state, l.granted_at, l.expires_at,
  CASE WHEN l.state = 'active' AND l.expires_at <= clock_timestamp() THEN l.expires_at ELSE l.ended_at END AS ended_at`;
const leases = "leases l JOIN secrets s ON s.id = l.secret_id";

export const leaseViewOf = (row: LeaseRow): LeaseView => ({
  ...row,
  granted_at: row.granted_at.toISOString(),
  expires_at: row.expires_at.toISOString(),
  ended_at: row.ended_at?.toISOString() ?? null,
});

const holdersMax = 200;

/** Leases of commands that hold the secret now, newest first. */
export async function listHolders(tx: Tx, tenantId: string, secretId: string): Promise<LeaseView[]> {
  const rows = await tx.query(
    `SELECT ${columns} FROM ${leases}
      WHERE l.tenant_id = $1 AND l.secret_id = $2 AND l.state = 'active' AND l.expires_at > clock_timestamp()
      ORDER BY l.id DESC LIMIT $3`,
    [tenantId, secretId, holdersMax],
  );
  return rows.map((row) => leaseViewOf(leaseRow.parse(row)));
}

export async function listLeaseRows(
  tx: Tx,
  o: {
    tenantId: string;
    secretId: string | null;
    commandId: string | null;
    vmUuid: string | null;
    state: string | null;
    before: string | null;
    limit: number;
  },
): Promise<LeaseRow[]> {
  const rows = await tx.query(
    `SELECT ${columns} FROM ${leases}
      WHERE l.tenant_id = $1 AND ($2::uuid IS NULL OR l.secret_id = $2) AND ($3::uuid IS NULL OR l.command_id = $3)
        AND ($4::uuid IS NULL OR l.vm_uuid = $4) AND ($5::text IS NULL OR ${state} = $5)
        AND ($6::uuid IS NULL OR l.id < $6)
      ORDER BY l.id DESC LIMIT $7`,
    [o.tenantId, o.secretId, o.commandId, o.vmUuid, o.state, o.before, o.limit],
  );
  return rows.map((row) => leaseRow.parse(row));
}

/** Held until the transaction ends. */
export async function lockLease(tx: Tx, tenantId: string, id: string): Promise<LeaseRow | undefined> {
  const [row] = await tx.query(
    `SELECT ${columns} FROM ${leases} WHERE l.tenant_id = $1 AND l.id = $2 FOR NO KEY UPDATE OF l`,
    [tenantId, id],
  );
  return row === undefined ? undefined : leaseRow.parse(row);
}

/** Under the lease's lock. */
export async function markRevoked(tx: Tx, tenantId: string, id: string): Promise<void> {
  await tx.execute(
    "UPDATE leases SET state = 'revoked', ended_at = clock_timestamp() WHERE tenant_id = $1 AND id = $2",
    [tenantId, id],
  );
}

/** Of commands that ended, in this attempt or an earlier one. Under the system role. */
export async function endLeases(
  tx: Tx,
  ended: readonly { readonly tenantId: string; readonly commandId: string; readonly attempt: number }[],
): Promise<number> {
  return await tx.execute(
    `UPDATE leases l SET state = 'ended', ended_at = least(clock_timestamp(), l.expires_at)
       FROM unnest($1::text[], $2::uuid[], $3::integer[]) AS e (tenant_id, command_id, attempt)
      WHERE l.tenant_id = e.tenant_id AND l.command_id = e.command_id AND l.attempt <= e.attempt
        AND l.state = 'active'`,
    [ended.map((one) => one.tenantId), ended.map((one) => one.commandId), ended.map((one) => one.attempt)],
  );
}

/** Of everybody; at most so many. Under the system role. */
export async function expireLeases(tx: Tx, limit: number): Promise<number> {
  return await tx.execute(
    `UPDATE leases SET state = 'expired', ended_at = expires_at WHERE id = ANY (ARRAY(
       SELECT id FROM leases WHERE state = 'active' AND expires_at <= clock_timestamp()
        ORDER BY expires_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED))`,
    [limit],
  );
}

/** For one reference: what the agent is given, value apart. */
export const given = z.object({
  reference: z.string(),
  secret_id: z.string(),
  version: z.number(),
  field: z.string(),
  as: bindingAppearance,
  binding_id: z.string(),
});
export type Given = z.output<typeof given>;

const handoverRow = z.object({
  agent_id: z.string(),
  nonce: z.string(),
  recipient: z.string(),
  given: z.array(given),
  /** Every lease lives, and every binding and secret is as it was. */
  lives: z.boolean(),
  left_ms: z.number(),
});
export type HandoverRow = z.output<typeof handoverRow>;

export interface AttemptKey {
  readonly tenantId: string;
  readonly commandId: string;
  readonly attempt: number;
}

/** Whoever asks for the same attempt meanwhile waits until the transaction ends. */
export async function lockAttempt(tx: Tx, { commandId, attempt }: AttemptKey): Promise<void> {
  await tx.query("SELECT pg_advisory_xact_lock(hashtext('muster.secrets.attempt'), hashtext($1))", [
    `${commandId}:${attempt}`,
  ]);
}

/** What the attempt was given before. Under the attempt's lock. */
export async function findHandover(tx: Tx, key: AttemptKey): Promise<HandoverRow | undefined> {
  const [row] = await tx.query(
    `SELECT h.agent_id, h.nonce, h.recipient, h.given,
       (extract(epoch FROM h.expires_at - clock_timestamp()) * 1000)::float8 AS left_ms,
       NOT EXISTS (SELECT 1 FROM leases l
         WHERE l.command_id = h.command_id AND l.attempt = h.attempt AND l.state <> 'active') AS lives
       FROM handovers h WHERE h.tenant_id = $1 AND h.command_id = $2 AND h.attempt = $3`,
    [key.tenantId, key.commandId, key.attempt],
  );
  return row === undefined ? undefined : handoverRow.parse(row);
}

export interface NewHandover extends AttemptKey {
  readonly agentId: string;
  readonly nonce: string;
  readonly recipient: string;
  readonly given: readonly Given[];
  readonly leaseMs: number;
}

export async function insertHandover(tx: Tx, handover: NewHandover): Promise<void> {
  await tx.execute(
    `INSERT INTO handovers (tenant_id, command_id, attempt, agent_id, nonce, recipient, given, expires_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp() + $8 * interval '1 millisecond')`,
    [
      ...[handover.tenantId, handover.commandId, handover.attempt, handover.agentId],
      ...[handover.nonce, handover.recipient, JSON.stringify(handover.given), handover.leaseMs],
    ],
  );
}

/** After its handover, with whose end it ends. */
export async function insertLease(
  tx: Tx,
  key: AttemptKey,
  lease: {
    readonly id: string;
    readonly secretId: string;
    readonly version: number;
    readonly vmUuid: string;
  },
): Promise<void> {
  await tx.execute(
    `INSERT INTO leases (id, tenant_id, secret_id, version, command_id, attempt, vm_uuid, agent_id, expires_at)
     SELECT $1, tenant_id, $5, $6, command_id, attempt, $7, agent_id, expires_at FROM handovers
      WHERE tenant_id = $2 AND command_id = $3 AND attempt = $4`,
    [lease.id, key.tenantId, key.commandId, key.attempt, lease.secretId, lease.version, lease.vmUuid],
  );
}
