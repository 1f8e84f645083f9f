import type { ServiceAccountView, UserView } from "@muster/contracts/accounts";
import { role } from "@muster/contracts/principal";
import type { Role } from "@muster/contracts/principal";
import type { Tx } from "@muster/database/database";
import { z } from "zod";
import { highestOf } from "./rules.ts";

export type AccountKind = "user" | "service-account";

const accountRow = z
  .object({
    id: z.string(),
    kind: z.enum(["user", "service-account"]),
    email: z.string().nullable(),
    name: z.string(),
    roles: z.array(role),
    permissions: z.array(z.string()),
    created_at: z.date(),
    disabled_at: z.date().nullable(),
    external_issuer: z.string().nullable(),
    external_subject: z.string().nullable(),
  })
  .transform(({ roles, external_issuer: issuer, external_subject: subject, ...row }) => ({
    ...row,
    role: highestOf(roles) ?? ("member" as const),
    /** Who vouches for the user, where that is an issuer outside. */
    external: issuer === null || subject === null ? null : { issuer, subject },
  }));
export type Account = z.output<typeof accountRow>;

const columns =
  "id, kind, email, name, roles, permissions, created_at, disabled_at, external_issuer, external_subject";

export function serviceAccountViewOf(row: Account): ServiceAccountView {
  return {
    id: row.id,
    name: row.name,
    role: row.role,
    permissions: row.permissions,
    created_at: row.created_at.toISOString(),
    disabled_at: row.disabled_at?.toISOString() ?? null,
  };
}

export const userViewOf = (row: Account): UserView => ({
  ...serviceAccountViewOf(row),
  email: row.email ?? "",
  ...(row.external === null ? {} : { external: row.external }),
});

export interface NewAccount {
  readonly id: string;
  readonly tenantId: string;
  readonly kind: AccountKind;
  /** Lower case; of users. */
  readonly email: string | null;
  readonly name: string;
  readonly role: Role;
  readonly permissions: readonly string[];
}

/** Undefined when the tenant has a user of this email address. */
export async function insertAccount(tx: Tx, account: NewAccount): Promise<Account | undefined> {
  const rows = await tx.query(
    `INSERT INTO principals (id, tenant_id, kind, email, name, roles, permissions)
     VALUES ($1, $2, $3, $4, $5, $6, $7)
     ON CONFLICT (tenant_id, email) WHERE email IS NOT NULL DO NOTHING RETURNING ${columns}`,
    [
      ...[account.id, account.tenantId, account.kind, account.email, account.name],
      ...[[account.role], account.permissions],
    ],
  );
  return rows[0] === undefined ? undefined : accountRow.parse(rows[0]);
}

/** `kind` null: of any kind. */
export async function findAccount(
  tx: Tx,
  tenantId: string,
  id: string,
  kind: AccountKind | null,
): Promise<Account | undefined> {
  const rows = await tx.query(
    `SELECT ${columns} FROM principals WHERE tenant_id = $1 AND id = $2 AND ($3::text IS NULL OR kind = $3)`,
    [tenantId, id, kind],
  );
  return rows[0] === undefined ? undefined : accountRow.parse(rows[0]);
}

/** Newest first, after `before`. */
export async function listAccounts(
  tx: Tx,
  o: { tenantId: string; kind: AccountKind; before: string | null; limit: number },
): Promise<Account[]> {
  const rows = await tx.query(
    `SELECT ${columns} FROM principals
      WHERE tenant_id = $1 AND kind = $2 AND ($3::uuid IS NULL OR id < $3) ORDER BY id DESC LIMIT $4`,
    [o.tenantId, o.kind, o.before, o.limit],
  );
  return rows.map((row) => accountRow.parse(row));
}

/** Under the tenant's lock. */
export async function changeAccount(
  tx: Tx,
  account: { tenantId: string; id: string },
  to: { name: string; role: Role; permissions: readonly string[] },
): Promise<Account> {
  const rows = await tx.query(
    `UPDATE principals SET name = $3, roles = $4, permissions = $5 WHERE tenant_id = $1 AND id = $2
     RETURNING ${columns}`,
    [account.tenantId, account.id, to.name, [to.role], to.permissions],
  );
  return accountRow.parse(rows[0]);
}

/** The first time stands. Under the tenant's lock. */
export async function disableAccount(tx: Tx, tenantId: string, id: string): Promise<Account> {
  const rows = await tx.query(
    `UPDATE principals SET disabled_at = coalesce(disabled_at, clock_timestamp()) WHERE tenant_id = $1 AND id = $2
     RETURNING ${columns}`,
    [tenantId, id],
  );
  return accountRow.parse(rows[0]);
}

/**
 * Whether an enabled user other than this one is an owner: a tenant without one could not be helped. One whom an outside
 * issuer vouches for does not count: the issuer can take that back.
 */
export async function hasOtherOwner(tx: Tx, tenantId: string, id: string): Promise<boolean> {
  const rows = await tx.query(
    `SELECT 1 FROM principals WHERE tenant_id = $1 AND id <> $2 AND kind = 'user' AND disabled_at IS NULL
        AND external_issuer IS NULL AND 'owner' = ANY (roles) LIMIT 1`,
    [tenantId, id],
  );
  return rows.length > 0;
}
