import { vaultKinds } from "@muster/contracts/secrets";
import type { SecretView, VaultKind, VersionView } from "@muster/contracts/secrets";
import type { Tx } from "@muster/database/database";
import { z } from "zod";

const secretRow = z.object({
  id: z.string(),
  tenant_id: z.string(),
  name: z.string(),
  description: z.string(),
  state: z.enum(["enabled", "disabled", "deleted"]),
  current_version: z.number().nullable(),
  last_version: z.number(),
  fields: z.array(z.string()).nullable(),
  vault: z.enum(vaultKinds),
  created_by: z.string(),
  created_at: z.date(),
  changed_at: z.date(),
  rotated_at: z.date().nullable(),
});
export type SecretRow = z.output<typeof secretRow>;

const versionRow = z.object({
  version: z.number(),
  state: z.enum(["writing", "kept", "destroying", "destroyed"]),
  current: z.boolean(),
  fields: z.array(z.string()),
  created_by: z.string(),
  created_at: z.date(),
  destroyed_at: z.date().nullable(),
});
export type VersionRow = z.output<typeof versionRow>;

const secretColumns = `s.id, s.tenant_id, s.name, s.description, s.state, s.current_version, s.last_version, v.fields, s.vault,
  s.created_by, s.created_at, s.changed_at, s.rotated_at`;
const secretsWithFields =
  "secrets s LEFT JOIN versions v ON v.secret_id = s.id AND v.version = s.current_version";
const versionColumns = `v.version, v.state, v.version IS NOT DISTINCT FROM s.current_version AS current, v.fields,
  v.created_by, v.created_at, v.destroyed_at`;

export function secretViewOf(row: SecretRow): SecretView {
  return {
    id: row.id,
    name: row.name,
    description: row.description,
    state: row.state,
    version: row.current_version,
    fields: row.fields ?? [],
    vault: row.vault,
    created_by: row.created_by,
    created_at: row.created_at.toISOString(),
    changed_at: row.changed_at.toISOString(),
    rotated_at: row.rotated_at?.toISOString() ?? null,
  };
}

export function versionViewOf(row: VersionRow): VersionView {
  const isThere = row.state === "kept";
  return {
    version: row.version,
    state: !isThere ? "destroyed" : row.current ? "current" : "kept",
    fields: row.fields,
    created_by: row.created_by,
    created_at: row.created_at.toISOString(),
    destroyed_at: row.destroyed_at?.toISOString() ?? null,
  };
}

/** Changes of how many secrets a tenant has go one after the other. */
export async function lockTenant(tx: Tx, tenantId: string): Promise<void> {
  await tx.query("SELECT pg_advisory_xact_lock(hashtext('muster.secrets.tenant'), hashtext($1))", [tenantId]);
}

export interface NewSecret {
  readonly id: string;
  readonly tenantId: string;
  readonly name: string;
  readonly description: string;
  readonly vault: VaultKind;
  readonly createdBy: string;
}

/** False when the tenant has one of this name. */
export async function insertSecret(tx: Tx, secret: NewSecret): Promise<boolean> {
  const inserted = await tx.execute(
    `INSERT INTO secrets (id, tenant_id, name, description, state, last_version, vault, created_by)
     VALUES ($1, $2, $3, $4, 'making', 1, $5, $6)
     ON CONFLICT (tenant_id, name) WHERE state NOT IN ('deleted', 'abandoned') DO NOTHING`,
    [secret.id, secret.tenantId, secret.name, secret.description, secret.vault, secret.createdBy],
  );
  return inserted === 1;
}

export async function countSecrets(tx: Tx, tenantId: string): Promise<number> {
  const [row] = await tx.query(
    `SELECT count(*)::integer AS secrets FROM secrets
      WHERE tenant_id = $1 AND state NOT IN ('deleted', 'abandoned')`,
    [tenantId],
  );
  return z.object({ secrets: z.number() }).parse(row).secrets;
}

/** Of those that were made; deleted ones too. */
export async function findSecret(tx: Tx, tenantId: string, id: string): Promise<SecretRow | undefined> {
  const [row] = await tx.query(
    `SELECT ${secretColumns} FROM ${secretsWithFields}
      WHERE s.tenant_id = $1 AND s.id = $2 AND s.state IN ('enabled', 'disabled', 'deleted')`,
    [tenantId, id],
    { name: "secrets_find" },
  );
  return row === undefined ? undefined : secretRow.parse(row);
}

/** The same, held against every other change of it and every handover until the transaction ends. */
export async function lockSecret(tx: Tx, tenantId: string, id: string): Promise<SecretRow | undefined> {
  await tx.query("SELECT 1 FROM secrets WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE", [tenantId, id]);
  return await findSecret(tx, tenantId, id);
}

/** Newest first, after `before`; of this name where one is given. */
export async function listSecretRows(
  tx: Tx,
  o: { tenantId: string; name: string | null; before: string | null; limit: number },
): Promise<SecretRow[]> {
  const rows = await tx.query(
    `SELECT ${secretColumns} FROM ${secretsWithFields}
      WHERE s.tenant_id = $1 AND s.state IN ('enabled', 'disabled') AND ($2::text IS NULL OR s.name = $2)
        AND ($3::uuid IS NULL OR s.id < $3) ORDER BY s.id DESC LIMIT $4`,
    [o.tenantId, o.name, o.before, o.limit],
  );
  return rows.map((row) => secretRow.parse(row));
}

/** Under the secret's lock. */
export async function setState(
  tx: Tx,
  tenantId: string,
  id: string,
  state: "enabled" | "disabled",
): Promise<void> {
  await tx.execute(
    "UPDATE secrets SET state = $3, changed_at = clock_timestamp() WHERE tenant_id = $1 AND id = $2",
    [tenantId, id, state],
  );
}

/** Under the secret's lock: its name is free from now on, and what is kept of it is to be destroyed. */
export async function markDeleted(tx: Tx, tenantId: string, id: string): Promise<void> {
  await tx.execute(
    `UPDATE secrets SET state = 'deleted', current_version = NULL, changed_at = clock_timestamp()
      WHERE tenant_id = $1 AND id = $2`,
    [tenantId, id],
  );
  await tx.execute(
    `UPDATE versions SET state = 'destroying', changed_at = clock_timestamp()
      WHERE tenant_id = $1 AND secret_id = $2 AND state = 'kept'`,
    [tenantId, id],
  );
}

/** Newest first, after `before`; those that came to be. */
export async function listVersionRows(
  tx: Tx,
  o: { tenantId: string; secretId: string; before: number | null; limit: number },
): Promise<VersionRow[]> {
  const rows = await tx.query(
    `SELECT ${versionColumns} FROM versions v JOIN secrets s ON s.id = v.secret_id
      WHERE v.tenant_id = $1 AND v.secret_id = $2 AND v.was_kept AND ($3::integer IS NULL OR v.version < $3)
      ORDER BY v.version DESC LIMIT $4`,
    [o.tenantId, o.secretId, o.before, o.limit],
  );
  return rows.map((row) => versionRow.parse(row));
}

export async function findVersion(
  tx: Tx,
  o: { tenantId: string; secretId: string; version: number },
): Promise<VersionRow | undefined> {
  const [row] = await tx.query(
    `SELECT ${versionColumns} FROM versions v JOIN secrets s ON s.id = v.secret_id
      WHERE v.tenant_id = $1 AND v.secret_id = $2 AND v.version = $3`,
    [o.tenantId, o.secretId, o.version],
    { name: "secrets_version" },
  );
  return row === undefined ? undefined : versionRow.parse(row);
}
