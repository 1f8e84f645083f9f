import type { IssuerView } from "@muster/contracts/issuers";
import { role } from "@muster/contracts/principal";
import type { Role } from "@muster/contracts/principal";
import type { Tx } from "@muster/database/database";
import { z } from "zod";
import { lowerOf } from "../accounts/rules.ts";
import type { Rank } from "../accounts/rules.ts";
import { audiencesOf, tenantsNamed } from "./claims.ts";
import type { Claims, TrustedIssuer } from "./claims.ts";

const issuerRow = z.object({
  id: z.string(),
  tenant_id: z.string(),
  issuer: z.string(),
  audience: z.string(),
  jwks_uri: z.string().nullable(),
  algorithms: z.array(z.string()),
  tenant_claim: z.string().nullable(),
  roles_claim: z.string(),
  role_map: z.array(z.object({ value: z.string(), role, permissions: z.array(z.string()) })),
  role_max: role,
  created_at: z.date(),
  removed_at: z.date().nullable(),
});
export type IssuerRow = z.output<typeof issuerRow>;

const columns =
  "id, tenant_id, issuer, audience, jwks_uri, algorithms, tenant_claim, roles_claim, role_map, role_max, created_at, removed_at";

export function issuerViewOf({ tenant_id: _tenant, ...row }: IssuerRow): IssuerView {
  return {
    ...row,
    created_at: row.created_at.toISOString(),
    removed_at: row.removed_at?.toISOString() ?? null,
  };
}

const trustedOf = (row: IssuerRow): TrustedIssuer => ({
  id: row.id,
  tenantId: row.tenant_id,
  issuer: row.issuer,
  audience: row.audience,
  jwksUri: row.jwks_uri,
  algorithms: row.algorithms,
  tenantClaim: row.tenant_claim,
  rolesClaim: row.roles_claim,
  roleMap: row.role_map,
  roleMax: row.role_max,
});

/** Undefined when the tenant trusts this issuer for this audience. */
export async function insertIssuer(tx: Tx, issuer: TrustedIssuer): Promise<IssuerRow | undefined> {
  const rows = await tx.query(
    `INSERT INTO issuers (id, tenant_id, issuer, audience, jwks_uri, algorithms, tenant_claim, roles_claim, role_map, role_max)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
     ON CONFLICT (issuer, audience, tenant_id) WHERE removed_at IS NULL DO NOTHING RETURNING ${columns}`,
    [
      ...[issuer.id, issuer.tenantId, issuer.issuer, issuer.audience, issuer.jwksUri, issuer.algorithms],
      ...[issuer.tenantClaim, issuer.rolesClaim, JSON.stringify(issuer.roleMap), issuer.roleMax],
    ],
  );
  return rows[0] === undefined ? undefined : issuerRow.parse(rows[0]);
}

export async function countTrusted(tx: Tx, tenantId: string): Promise<number> {
  const text = "SELECT count(*)::integer AS trusted FROM issuers WHERE tenant_id = $1 AND removed_at IS NULL";
  const [row] = await tx.query(text, [tenantId]);
  return z.object({ trusted: z.number() }).parse(row).trusted;
}

export async function findIssuer(tx: Tx, tenantId: string, id: string): Promise<IssuerRow | undefined> {
  const text = `SELECT ${columns} FROM issuers WHERE tenant_id = $1 AND id = $2`;
  const [row] = await tx.query(text, [tenantId, id]);
  return row === undefined ? undefined : issuerRow.parse(row);
}

/** Newest first, after `before`; those that were removed too. */
export async function listIssuerRows(
  tx: Tx,
  o: { tenantId: string; before: string | null; limit: number },
): Promise<IssuerRow[]> {
  const rows = await tx.query(
    `SELECT ${columns} FROM issuers WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3`,
    [o.tenantId, o.before, o.limit],
  );
  return rows.map((row) => issuerRow.parse(row));
}

/** The first time stands. Under the tenant's lock. */
export async function markRemoved(tx: Tx, tenantId: string, id: string): Promise<IssuerRow> {
  const [row] = await tx.query(
    `UPDATE issuers SET removed_at = coalesce(removed_at, clock_timestamp()) WHERE tenant_id = $1 AND id = $2
     RETURNING ${columns}`,
    [tenantId, id],
  );
  return issuerRow.parse(row);
}

/** Looked at for one token; more than any honest one names. */
const trustedMax = 100;

/**
 * Entries of active tenants that trust the issuer of these claims, which nothing has proven yet, for one of their
 * audiences. Those that want a claim come first, and only where the claims have the tenant's id at all.
 */
export async function findTrusted(tx: Tx, claims: Claims, tenantId: string | null): Promise<TrustedIssuer[]> {
  if (typeof claims["iss"] !== "string") return [];
  const rows = await tx.query(
    `SELECT ${columns} FROM issuers i
      WHERE issuer = $1 AND audience = ANY ($2::text[]) AND removed_at IS NULL
        AND (tenant_claim IS NULL OR tenant_id = ANY ($3::text[])) AND ($4::text IS NULL OR tenant_id = $4)
        AND EXISTS (SELECT 1 FROM tenants t WHERE t.tenant_id = i.tenant_id AND t.state = 'active')
      ORDER BY tenant_claim IS NULL, id LIMIT $5`,
    [
      storableKey(claims["iss"]),
      audiencesOf(claims).map(storableKey),
      tenantsNamed(claims),
      tenantId,
      trustedMax,
    ],
  );
  return rows.map((row) => trustedOf(issuerRow.parse(row)));
}

/** A text with NUL cannot be asked for, and is none that anybody trusts. */
const storableKey = (text: string): string => (text.includes("\0") ? "" : text);

/**
 * What a token is made from, where the issuer is trusted still: keys may have been waited for meanwhile. Call it when the
 * user is locked and nothing of the account changes any more.
 */
export async function trustedAsOf(tx: Tx, { tenantId, id }: TrustedIssuer): Promise<Date | undefined> {
  const [row] = await tx.query(
    `SELECT t.tokens_as_of FROM issuers i JOIN tenants t ON t.tenant_id = i.tenant_id
      WHERE i.tenant_id = $1 AND i.id = $2 AND i.removed_at IS NULL AND t.state = 'active'`,
    [tenantId, id],
  );
  return row === undefined ? undefined : z.object({ tokens_as_of: z.date() }).parse(row).tokens_as_of;
}

/** A user as an issuer vouches for it. */
export interface Newcomer extends Rank {
  readonly id: string;
  readonly tenantId: string;
  readonly issuer: string;
  readonly subject: string;
  readonly name: string;
  /** When the token was made that says so. */
  readonly issuedAt: Date;
}

const userRow = z
  .object({
    id: z.string(),
    roles: z.array(role).length(1),
    permissions: z.array(z.string()),
    disabled: z.boolean(),
    external_issued_at: z.date(),
  })
  .transform(({ roles, ...row }) => ({ ...row, role: roles.reduce<Role>(lowerOf, "owner") }));
export type ExternalUser = z.output<typeof userRow>;

/** False where the user is there already. */
export async function insertExternalUser(tx: Tx, user: Newcomer): Promise<boolean> {
  const rows = await tx.query(
    `INSERT INTO principals (id, tenant_id, kind, name, roles, permissions, external_issuer, external_subject, external_issued_at)
     VALUES ($1, $2, 'user', $3, $4, $5, $6, $7, $8)
     ON CONFLICT (tenant_id, external_issuer, external_subject) WHERE external_issuer IS NOT NULL DO NOTHING
     RETURNING id`,
    [
      ...[user.id, user.tenantId, user.name, [user.role], user.permissions],
      ...[user.issuer, user.subject, user.issuedAt],
    ],
  );
  return rows.length > 0;
}

/** Held until the transaction ends: of two tokens of one user, one is looked at after the other. */
export async function lockExternalUser(
  tx: Tx,
  user: Pick<Newcomer, "tenantId" | "issuer" | "subject">,
): Promise<ExternalUser | undefined> {
  const [row] = await tx.query(
    `SELECT id, roles, permissions, disabled_at IS NOT NULL AS disabled, external_issued_at FROM principals
      WHERE tenant_id = $1 AND external_issuer = $2 AND external_subject = $3 FOR NO KEY UPDATE`,
    [user.tenantId, user.issuer, user.subject],
  );
  return row === undefined ? undefined : userRow.parse(row);
}

/** Under the user's lock. */
export async function keepNewest(
  tx: Tx,
  user: Rank & { readonly id: string; readonly tenantId: string; readonly issuedAt: Date },
): Promise<void> {
  await tx.query(
    `UPDATE principals SET roles = $3, permissions = $4, external_issued_at = $5 WHERE tenant_id = $1 AND id = $2`,
    [user.tenantId, user.id, [user.role], user.permissions, user.issuedAt],
  );
}
