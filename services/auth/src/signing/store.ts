import { jwks } from "@muster/contracts/auth";
import type { Jwks } from "@muster/contracts/auth";
import type { Tx } from "@muster/database/database";
import { z } from "zod";

const publicJwk = jwks.shape.keys.element;
const activeRow = z.object({
  kid: z.string(),
  public_jwk: publicJwk,
  private_sealed: z.instanceof(Buffer),
  sealed_with: z.string(),
});
export type SigningKeyRow = z.infer<typeof activeRow>;

/** Every process that may make the first key, or later rotates, goes through this lock. */
export async function lockSigningKeys(tx: Tx): Promise<void> {
  await tx.query("SELECT pg_advisory_xact_lock(hashtextextended('muster.auth.signing-keys', 0))");
}

export async function findActive(tx: Tx): Promise<SigningKeyRow | undefined> {
  const rows = await tx.query(
    "SELECT kid, public_jwk, private_sealed, sealed_with FROM signing_keys WHERE status = 'active'",
  );
  return rows[0] === undefined ? undefined : activeRow.parse(rows[0]);
}

export async function insertActive(tx: Tx, row: SigningKeyRow): Promise<void> {
  await tx.query(
    `INSERT INTO signing_keys (kid, alg, public_jwk, private_sealed, sealed_with, status, activated_at)
     VALUES ($1, $2, $3, $4, $5, 'active', clock_timestamp())`,
    [row.kid, row.public_jwk.alg, JSON.stringify(row.public_jwk), row.private_sealed, row.sealed_with],
  );
}

/** What verifies a token now: the active key, the next one, and retired ones whose tokens may still live. */
export async function findPublished(tx: Tx): Promise<Jwks> {
  const rows = await tx.query(
    `SELECT public_jwk FROM signing_keys
      WHERE status <> 'retired' OR verify_until > clock_timestamp()
      ORDER BY created_at DESC LIMIT 20`,
  );
  return { keys: rows.map((row) => z.object({ public_jwk: publicJwk }).parse(row).public_jwk) };
}
