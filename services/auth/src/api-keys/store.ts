import { role } from "@muster/contracts/principal";
import type { Database, Tx } from "@muster/database/database";
import { DataTypes } from "sequelize";
import type { Model, ModelStatic } from "sequelize";
import { z } from "zod";
import type { KeyHolder } from "./grant.ts";

export interface NewApiKeyRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly principal_id: string;
  readonly prefix: string;
  readonly hash: Buffer;
  readonly name: string;
  readonly expires_at: Date | null;
}

export interface FoundKey extends KeyHolder {
  readonly id: string;
  readonly prefix: string;
  readonly hash: Buffer;
  /** Neither revoked nor expired, its holder enabled, its tenant active. */
  readonly usable: boolean;
  readonly expiresAt: Date | null;
  /** Not marked as used within the last minute. */
  readonly unmarked: boolean;
  /** What a token is made from, by the snapshot that all of this is of. */
  readonly asOf: Date;
}

export interface ApiKeyStore {
  findByPrefixes(tx: Tx, prefixes: readonly string[]): Promise<FoundKey[]>;
  markUsed(tx: Tx, ids: readonly string[]): Promise<void>;
  hasUsable(tx: Tx, principalId: string): Promise<boolean>;
  insert(tx: Tx, row: NewApiKeyRow): Promise<void>;
}

const foundRow = z
  .object({
    id: z.string(),
    prefix: z.string(),
    hash: z.instanceof(Buffer),
    tenant_id: z.string(),
    kind: z.enum(["user", "service-account"]),
    principal_id: z.string(),
    roles: z.array(role),
    permissions: z.array(z.string()),
    role_max: role.nullable(),
    key_permissions: z.array(z.string()).nullable(),
    usable: z.boolean(),
    expires_at: z.date().nullable(),
    unmarked: z.boolean(),
    tokens_as_of: z.date(),
  })
  .transform((row): FoundKey => ({
    id: row.id,
    prefix: row.prefix,
    hash: row.hash,
    tenantId: row.tenant_id,
    kind: row.kind,
    principalId: row.principal_id,
    roles: row.roles,
    permissions: row.permissions,
    roleMax: row.role_max,
    keyPermissions: row.key_permissions,
    usable: row.usable,
    expiresAt: row.expires_at,
    unmarked: row.unmarked,
    asOf: row.tokens_as_of,
  }));

export function apiKeyStore(database: Database): ApiKeyStore {
  const model: ModelStatic<Model> = database.sequelize.define("api_keys", {
    id: { type: DataTypes.UUID, primaryKey: true },
    tenant_id: DataTypes.TEXT,
    principal_id: DataTypes.UUID,
    prefix: DataTypes.TEXT,
    hash: DataTypes.BLOB,
    name: DataTypes.TEXT,
    expires_at: DataTypes.DATE,
    revoked_at: DataTypes.DATE,
  });

  return {
    async findByPrefixes(tx, prefixes) {
      const rows = await tx.query(
        `SELECT k.id, k.prefix, k.hash, k.tenant_id, p.kind, k.principal_id, p.roles, p.permissions,
                k.role_max, k.permissions AS key_permissions, k.expires_at,
                k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
                  AND p.disabled_at IS NULL AND t.state = 'active' AS usable,
                k.last_used_at IS NULL OR k.last_used_at < clock_timestamp() - interval '1 minute' AS unmarked,
                t.tokens_as_of
           FROM api_keys k
           JOIN principals p ON p.tenant_id = k.tenant_id AND p.id = k.principal_id
           JOIN tenants t ON t.tenant_id = k.tenant_id
          WHERE k.prefix = ANY ($1::text[])`,
        [prefixes],
        { name: "api_keys_by_prefix" },
      );
      return rows.map((row) => foundRow.parse(row));
    },

    async markUsed(tx, ids) {
      // In one order, so that two batches with the same keys cannot deadlock; a row that another marks is marked.
      await tx.query(
        `UPDATE api_keys SET last_used_at = clock_timestamp()
          WHERE id IN (SELECT id FROM api_keys WHERE id = ANY ($1::uuid[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)`,
        [ids],
        { name: "api_keys_mark_used" },
      );
    },

    async hasUsable(tx, principalId) {
      const rows = await tx.query(
        `SELECT 1 FROM api_keys
          WHERE principal_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
          LIMIT 1`,
        [principalId],
      );
      return rows.length > 0;
    },

    async insert(tx, row) {
      await model.create({ ...row }, { transaction: tx.sequelize, returning: false });
    },
  };
}
