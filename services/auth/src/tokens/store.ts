import { role } from "@muster/contracts/principal";
import type { Tx } from "@muster/database/database";
import { z } from "zod";
import type { KeyHolder } from "../api-keys/grant.ts";
import { usesMax } from "./verdict.ts";

/** Families of one account that live at once; a further one displaces the one that would end first. */
export const familiesMax = 50;

/** How long refresh tokens live, in seconds. */
export interface RefreshLife {
  /** From the exchange, however much it is used. */
  readonly absoluteSeconds: number;
  /** From its last use. */
  readonly idleSeconds: number;
  /** How long the same request may be sent again for the same answer. */
  readonly retrySeconds: number;
}

export interface NewFamily {
  readonly id: string;
  readonly tenantId: string;
  readonly principalId: string;
  readonly apiKeyId: string;
  /** The key's end: no family outlives it. */
  readonly notAfter: Date | null;
  readonly scope: readonly string[] | null;
}

const endsAt = z.object({ ends_at: z.date() }).transform((row) => row.ends_at);

/** With its first token, at most `familiesMax` of an account: answers when it ends, and which were displaced. */
export async function insertFamily(
  tx: Tx,
  family: NewFamily,
  hash: Buffer,
  life: RefreshLife,
): Promise<{ endsAt: Date; displaced: string[] }> {
  const { tenantId, principalId } = family;
  // First: two that begin at once would both find room.
  await tx.query("SELECT 1 FROM principals WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE", [
    tenantId,
    principalId,
  ]);
  const displaced = await tx.query<{ id: string }>(
    `UPDATE refresh_families SET revoked_at = clock_timestamp(), ends_at = clock_timestamp()
      WHERE tenant_id = $1 AND principal_id = $2 AND ends_at > clock_timestamp() AND id IN
        (SELECT id FROM refresh_families
          WHERE tenant_id = $1 AND principal_id = $2 AND ends_at > clock_timestamp()
          ORDER BY ends_at DESC OFFSET $3 FOR UPDATE)
      RETURNING id`,
    [tenantId, principalId, familiesMax - 1],
  );
  const [row] = await tx.query(
    `INSERT INTO refresh_families (id, tenant_id, principal_id, api_key_id, scope, expires_at, ends_at)
     SELECT $1, $2, $3, $4, $5::text[], made.until, least(made.until, clock_timestamp() + $8 * interval '1 second')
       FROM (SELECT least(clock_timestamp() + $7 * interval '1 second', $6::timestamptz) AS until) made
     RETURNING ends_at`,
    [
      ...[family.id, tenantId, principalId, family.apiKeyId, family.scope, family.notAfter],
      ...[life.absoluteSeconds, life.idleSeconds],
    ],
  );
  await insertToken(tx, { tenantId, familyId: family.id, generation: 0, hash });
  return { endsAt: endsAt.parse(row), displaced: displaced.map(({ id }) => id) };
}

function insertToken(
  tx: Tx,
  token: { tenantId: string; familyId: string; generation: number; hash: Buffer },
): Promise<number> {
  return tx.execute(
    "INSERT INTO refresh_tokens (hash, tenant_id, family_id, generation) VALUES ($1, $2, $3, $4)",
    [token.hash, token.tenantId, token.familyId, token.generation],
  );
}

const presentedRow = z
  .object({
    id: z.string(),
    generation: z.number(),
    uses: z.number(),
    alive: z.boolean(),
    retried: z.boolean(),
    usable: z.boolean(),
    scope: z.array(z.string()).nullable(),
    salt: z.instanceof(Buffer).nullable(),
    ends_at: z.date(),
    expires_at: z.date(),
    tenant_id: z.string(),
    kind: z.enum(["user", "service-account"]),
    principal_id: z.string(),
    api_key_id: z.string(),
    roles: z.array(role),
    permissions: z.array(z.string()),
    role_max: role.nullable(),
    key_permissions: z.array(z.string()).nullable(),
    /** What a token is made from, by the snapshot that all of this is of. */
    tokens_as_of: z.date(),
  })
  .transform((row) => {
    const holder: KeyHolder = {
      tenantId: row.tenant_id,
      kind: row.kind,
      principalId: row.principal_id,
      roles: row.roles,
      permissions: row.permissions,
      roleMax: row.role_max,
      keyPermissions: row.key_permissions,
    };
    return { ...row, holder };
  });
export type PresentedFamily = z.output<typeof presentedRow>;

/**
 * The family of a token as it is now, held until the transaction ends: of many who present one token, one looks at it
 * after the other. Undefined where there is none.
 */
export async function lockFamily(
  tx: Tx,
  hash: Buffer,
  request: { usedBy: Buffer; retrySeconds: number },
): Promise<PresentedFamily | undefined> {
  // By itself, before anything is read: what stands beside a lock in one statement may be older than the lock.
  await tx.query(
    `SELECT 1 FROM refresh_families f
      WHERE (f.tenant_id, f.id) = (SELECT t.tenant_id, t.family_id FROM refresh_tokens t WHERE t.hash = $1)
      FOR UPDATE`,
    [hash],
  );
  const [row] = await tx.query(
    `SELECT f.id, t.generation, f.uses, f.scope, f.salt, f.ends_at, f.expires_at, f.tenant_id,
            f.revoked_at IS NULL AND f.ends_at > clock_timestamp() AS alive,
            coalesce(f.used_by = $2 AND f.used_at > clock_timestamp() - $3 * interval '1 second', false) AS retried,
            k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
              AND p.disabled_at IS NULL AND o.state = 'active' AS usable,
            p.kind, f.principal_id, f.api_key_id, p.roles, p.permissions, k.role_max, k.permissions AS key_permissions,
            o.tokens_as_of
       FROM refresh_tokens t
       JOIN refresh_families f ON f.tenant_id = t.tenant_id AND f.id = t.family_id
       JOIN api_keys k ON k.tenant_id = f.tenant_id AND k.id = f.api_key_id
       JOIN principals p ON p.tenant_id = f.tenant_id AND p.id = f.principal_id
       JOIN tenants o ON o.tenant_id = f.tenant_id
      WHERE t.hash = $1`,
    [hash, request.usedBy, request.retrySeconds],
  );
  return row === undefined ? undefined : presentedRow.parse(row);
}

/** Under the family's lock. Answers when the family ends now. */
export async function rotate(
  tx: Tx,
  family: Pick<PresentedFamily, "id" | "tenant_id" | "uses">,
  use: { usedBy: Buffer; salt: Buffer; hash: Buffer; idleSeconds: number },
): Promise<Date> {
  const { id: familyId, tenant_id: tenantId, uses } = family;
  const [row] = await tx.query(
    `UPDATE refresh_families
        SET uses = uses + 1, used_at = clock_timestamp(), used_by = $4, salt = $5,
            ends_at = least(expires_at, clock_timestamp() + $6 * interval '1 second')
      WHERE tenant_id = $1 AND id = $2 AND uses = $3 AND uses < ${usesMax} RETURNING ends_at`,
    [tenantId, familyId, uses, use.usedBy, use.salt, use.idleSeconds],
  );
  await insertToken(tx, { tenantId, familyId, generation: uses + 1, hash: use.hash });
  return endsAt.parse(row);
}

/** Under the family's lock. */
export function endFamily(tx: Tx, family: Pick<PresentedFamily, "id" | "tenant_id">): Promise<number> {
  return tx.execute(
    `UPDATE refresh_families SET revoked_at = clock_timestamp(), ends_at = clock_timestamp()
      WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL AND ends_at > clock_timestamp()`,
    [family.tenant_id, family.id],
  );
}

/** Forgets at most `limit` tokens of families that have ended, and families without any left; answers how many rows. */
export async function pruneFamilies(tx: Tx, limit: number): Promise<number> {
  const tokens = await tx.execute(
    `DELETE FROM refresh_tokens WHERE ctid = ANY (ARRAY(
       SELECT t.ctid FROM refresh_families f
         JOIN refresh_tokens t ON t.tenant_id = f.tenant_id AND t.family_id = f.id
        WHERE f.ends_at < clock_timestamp() LIMIT $1 FOR UPDATE OF t SKIP LOCKED))`,
    [limit],
  );
  const families = await tx.execute(
    `DELETE FROM refresh_families WHERE ctid = ANY (ARRAY(
       SELECT f.ctid FROM refresh_families f
        WHERE f.ends_at < clock_timestamp()
          AND NOT EXISTS (SELECT 1 FROM refresh_tokens t WHERE t.tenant_id = f.tenant_id AND t.family_id = f.id)
        LIMIT $1 FOR UPDATE SKIP LOCKED))`,
    [limit],
  );
  return tokens + families;
}
