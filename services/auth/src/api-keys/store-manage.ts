import type { ApiKeyView } from "@muster/contracts/accounts";
import { role } from "@muster/contracts/principal";
import type { Role } from "@muster/contracts/principal";
import type { Tx } from "@muster/database/database";
import { z } from "zod";

const keyRow = z.object({
  id: z.string(),
  prefix: z.string(),
  name: z.string(),
  principal_id: z.string(),
  role_max: role.nullable(),
  permissions: z.array(z.string()).nullable(),
  created_at: z.date(),
  expires_at: z.date().nullable(),
  last_used_at: z.date().nullable(),
  revoked_at: z.date().nullable(),
});
export type ApiKeyRow = z.output<typeof keyRow>;

const columns =
  "id, prefix, name, principal_id, role_max, permissions, created_at, expires_at, last_used_at, revoked_at";

const textOf = (date: Date | null): string | null => date?.toISOString() ?? null;

export function apiKeyViewOf(row: ApiKeyRow): ApiKeyView {
  return {
    ...row,
    created_at: row.created_at.toISOString(),
    expires_at: textOf(row.expires_at),
    last_used_at: textOf(row.last_used_at),
    revoked_at: textOf(row.revoked_at),
  };
}

export interface NewApiKey {
  readonly id: string;
  readonly tenantId: string;
  readonly principalId: string;
  readonly prefix: string;
  readonly hash: Buffer;
  readonly name: string;
  readonly roleMax: Role | null;
  readonly permissions: readonly string[] | null;
  readonly expiresAt: Date | null;
}

export async function insertKey(tx: Tx, key: NewApiKey): Promise<ApiKeyRow> {
  const rows = await tx.query(
    `INSERT INTO api_keys (id, tenant_id, principal_id, prefix, hash, name, role_max, permissions, expires_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING ${columns}`,
    [
      ...[key.id, key.tenantId, key.principalId, key.prefix, key.hash, key.name],
      ...[key.roleMax, key.permissions, key.expiresAt],
    ],
  );
  return keyRow.parse(rows[0]);
}

/** Neither revoked nor expired. */
export async function countWorking(tx: Tx, tenantId: string, principalId: string): Promise<number> {
  const rows = await tx.query(
    `SELECT 1 FROM api_keys WHERE tenant_id = $1 AND principal_id = $2 AND revoked_at IS NULL
        AND (expires_at IS NULL OR expires_at > clock_timestamp()) LIMIT 1000`,
    [tenantId, principalId],
  );
  return rows.length;
}

/** `principalId` null: whoever holds it. */
export interface Holder {
  readonly tenantId: string;
  readonly principalId: string | null;
}

export async function findKey(tx: Tx, holder: Holder, id: string): Promise<ApiKeyRow | undefined> {
  const rows = await tx.query(
    `SELECT ${columns} FROM api_keys
      WHERE tenant_id = $1 AND ($2::uuid IS NULL OR principal_id = $2) AND id = $3`,
    [holder.tenantId, holder.principalId, id],
  );
  return rows[0] === undefined ? undefined : keyRow.parse(rows[0]);
}

/** Newest first, after `before`. */
export async function listKeys(
  tx: Tx,
  holder: Holder,
  o: { before: string | null; limit: number },
): Promise<ApiKeyRow[]> {
  const rows = await tx.query(
    `SELECT ${columns} FROM api_keys
      WHERE tenant_id = $1 AND ($2::uuid IS NULL OR principal_id = $2) AND ($3::uuid IS NULL OR id < $3)
      ORDER BY id DESC LIMIT $4`,
    [holder.tenantId, holder.principalId, o.before, o.limit],
  );
  return rows.map((row) => keyRow.parse(row));
}

export async function revokeKey(tx: Tx, tenantId: string, id: string): Promise<ApiKeyRow> {
  const rows = await tx.query(
    `UPDATE api_keys SET revoked_at = clock_timestamp() WHERE tenant_id = $1 AND id = $2 RETURNING ${columns}`,
    [tenantId, id],
  );
  return keyRow.parse(rows[0]);
}
