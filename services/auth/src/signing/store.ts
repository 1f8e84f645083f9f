import { jwks } from "@muster/contracts/auth";
import type { Jwks } from "@muster/contracts/auth";
import { signingKeyKinds, type SigningKeyKind } from "@muster/contracts/signing-keys";
import type { Tx } from "@muster/database/database";
import { z } from "zod";
import { keyStatuses, skewSeconds } from "./life.ts";
import type { KeyFacts } from "./life.ts";

const publicJwk = jwks.shape.keys.element;
const sealedRow = z.object({
  kid: z.string(),
  public_jwk: publicJwk,
  private_sealed: z.instanceof(Buffer),
  sealed_with: z.string(),
});
export type SealedKey = z.infer<typeof sealedRow>;

const keyRow = z.object({
  kid: z.string(),
  kind: z.enum(signingKeyKinds),
  alg: z.string(),
  status: z.enum(keyStatuses),
  created_at: z.date(),
  activated_at: z.date().nullable(),
  retired_at: z.date().nullable(),
  verify_until: z.date().nullable(),
  revoked_at: z.date().nullable(),
  rotation_asked_at: z.date().nullable(),
});
export type KeyRow = z.infer<typeof keyRow>;

const columns =
  "kid, kind, alg, status, created_at, activated_at, retired_at, verify_until, revoked_at, rotation_asked_at";

/** Every process that changes keys goes through this lock, to the end of its transaction. */
export async function lockSigningKeys(tx: Tx): Promise<void> {
  await tx.query("SELECT pg_advisory_xact_lock(hashtextextended('muster.auth.signing-keys', 0))");
}

/** All keys of one kind, newest first, and the database's time. */
export async function findKeys(tx: Tx, kind: SigningKeyKind): Promise<{ keys: KeyRow[]; nowMs: number }> {
  const rows = await tx.query(
    `SELECT ${columns} FROM signing_keys WHERE kind = $1 ORDER BY created_at DESC, kid DESC`,
    [kind],
  );
  const [clock] = await tx.query<{ now: Date }>("SELECT clock_timestamp() AS now");
  if (clock === undefined) throw new Error("the database has no time");
  return { keys: rows.map((row) => keyRow.parse(row)), nowMs: clock.now.getTime() };
}

export const factsOf = (row: KeyRow): KeyFacts => ({
  kid: row.kid,
  status: row.status,
  createdAtMs: row.created_at.getTime(),
  activatedAtMs: row.activated_at?.getTime() ?? null,
  rotationAskedAtMs: row.rotation_asked_at?.getTime() ?? null,
  verifyUntilMs: row.verify_until?.getTime() ?? null,
  revokedAtMs: row.revoked_at?.getTime() ?? null,
});

export async function findKindOf(tx: Tx, kid: string): Promise<SigningKeyKind | undefined> {
  const rows = await tx.query("SELECT kind FROM signing_keys WHERE kid = $1", [kid]);
  return rows[0] === undefined ? undefined : keyRow.pick({ kind: true }).parse(rows[0]).kind;
}

export async function findActiveKid(tx: Tx, kind: SigningKeyKind): Promise<string | undefined> {
  const rows = await tx.query<{ kid: string }>(
    "SELECT kid FROM signing_keys WHERE status = 'active' AND kind = $1",
    [kind],
    { name: "signing_keys_active" },
  );
  return rows[0]?.kid;
}

/**
 * The active key, for one who is going to sign with it tokens of this life: whoever retires it waits for them.
 */
export async function takeUpActive(
  tx: Tx,
  kind: SigningKeyKind,
  tokenTtlSeconds: number,
): Promise<SealedKey | undefined> {
  const rows = await tx.query(
    `UPDATE signing_keys SET token_ttl_seconds = greatest(token_ttl_seconds, $2)
      WHERE status = 'active' AND kind = $1
     RETURNING kid, public_jwk, private_sealed, sealed_with`,
    [kind, tokenTtlSeconds],
  );
  return rows[0] === undefined ? undefined : sealedRow.parse(rows[0]);
}

export async function findSealed(tx: Tx, kid: string): Promise<SealedKey | undefined> {
  const rows = await tx.query(
    `SELECT kid, public_jwk, private_sealed, sealed_with FROM signing_keys
      WHERE kid = $1 AND private_sealed IS NOT NULL`,
    [kid],
  );
  return rows[0] === undefined ? undefined : sealedRow.parse(rows[0]);
}

/** Keys that another sealing key has sealed, locked against every other change. */
export async function lockSealedOtherwise(tx: Tx, sealedWith: string): Promise<SealedKey[]> {
  const rows = await tx.query(
    `SELECT kid, public_jwk, private_sealed, sealed_with FROM signing_keys
      WHERE sealed_with <> $1 AND private_sealed IS NOT NULL ORDER BY kid FOR UPDATE`,
    [sealedWith],
  );
  return rows.map((row) => sealedRow.parse(row));
}

export async function sealKey(tx: Tx, key: SealedKey): Promise<void> {
  await tx.query("UPDATE signing_keys SET private_sealed = $2, sealed_with = $3 WHERE kid = $1", [
    ...[key.kid, key.private_sealed, key.sealed_with],
  ]);
}

export async function insertKey(
  tx: Tx,
  key: SealedKey,
  o: { kind: SigningKeyKind; status: "active" | "next"; tokenTtlSeconds: number },
): Promise<void> {
  await tx.query(
    `INSERT INTO signing_keys
       (kid, alg, public_jwk, private_sealed, sealed_with, kind, status, token_ttl_seconds, activated_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, CASE WHEN $7 = 'active' THEN clock_timestamp() END)`,
    [
      ...[key.kid, key.public_jwk.alg, JSON.stringify(key.public_jwk), key.private_sealed, key.sealed_with],
      ...[o.kind, o.status, o.tokenTtlSeconds],
    ],
  );
}

/** Before another one is activated: one key signs. */
export async function retireKey(tx: Tx, kid: string): Promise<void> {
  await tx.query(
    `UPDATE signing_keys
        SET status = 'retired', retired_at = clock_timestamp(), rotation_asked_at = NULL,
            verify_until = clock_timestamp() + (token_ttl_seconds + $2) * interval '1 second'
      WHERE kid = $1 AND status = 'active'`,
    [kid, skewSeconds],
  );
}

export async function activateKey(tx: Tx, kid: string): Promise<void> {
  await tx.query(
    "UPDATE signing_keys SET status = 'active', activated_at = clock_timestamp() WHERE kid = $1 AND status = 'next'",
    [kid],
  );
}

/** A rotation was asked for; it is due from now on. */
export async function rememberAsked(tx: Tx, kid: string): Promise<void> {
  await tx.query(
    "UPDATE signing_keys SET rotation_asked_at = clock_timestamp() WHERE kid = $1 AND status = 'active'",
    [kid],
  );
}

/** Whatever it was. Its private half is gone for good. */
export async function revokeKey(tx: Tx, kid: string): Promise<void> {
  await tx.query(
    `UPDATE signing_keys
        SET status = 'revoked', revoked_at = clock_timestamp(), private_sealed = NULL, rotation_asked_at = NULL
      WHERE kid = $1`,
    [kid],
  );
}

export async function removeKeys(tx: Tx, kids: readonly string[]): Promise<void> {
  await tx.query(
    "DELETE FROM signing_keys WHERE kid = ANY ($1::text[]) AND status IN ('retired', 'revoked')",
    [kids],
  );
}

/** What verifies a token now: the active key, the next one, and retired ones whose tokens may still live. */
export async function findPublished(tx: Tx, kind: SigningKeyKind): Promise<Jwks> {
  const rows = await tx.query(
    `SELECT public_jwk FROM signing_keys
      WHERE kind = $1
        AND (status IN ('next', 'active') OR (status = 'retired' AND verify_until > clock_timestamp()))
      ORDER BY created_at DESC LIMIT 20`,
    [kind],
  );
  return { keys: rows.map((row) => z.object({ public_jwk: publicJwk }).parse(row).public_jwk) };
}
