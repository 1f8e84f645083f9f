import { createPublicKey, verify } from "node:crypto";
import { prepareEvent } from "@muster/broker/prepare";
import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyOf, Service } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import {
  meshKeyLifeMs,
  meshKeyProofText,
  meshKeys,
  meshKeysChanged,
  meshKeysOfServiceMax,
} from "@muster/contracts/mesh-keys";
import type { MeshKey, meshKeyRequests, MeshKeys } from "@muster/contracts/mesh-keys";
import type { Database, Tx } from "@muster/database/database";
import { thumbprintOf } from "@muster/identity/mesh-signer";
import { usableKeys } from "@muster/identity/usable-keys";

type Register = typeof meshKeyRequests.registerMeshKey;
const lifeSeconds = meshKeyLifeMs / 1_000;

/**
 * Takes the key up for the service that asks, as the broker vouches for it, or renews it. Whoever verifies is told of a new
 * one. Throws VALIDATION_FAILED for what is no strong key, or not proven to be the asker's.
 */
export async function registerMeshKey(
  database: Pick<Database, "transaction">,
  { x, proof }: PayloadOf<Register>,
  context: RequestContext,
): Promise<ReplyOf<Register>> {
  const { asker } = context;
  if (asker === undefined) throw new MusterError("FORBIDDEN");
  const key = keyOf(x, asker);
  refuseUnlessHeld(key, proof);
  await database.transaction("system", async (tx) => {
    // One after the other, so that each sees what the one before has let go.
    await tx.query("SELECT pg_advisory_xact_lock(hashtextextended('muster.auth.mesh-keys', 0))");
    const isNew = await keep(tx, key);
    await dropOldest(tx, asker);
    if (isNew) announce(tx, key, context);
  });
  return { kid: key.kid, expires_in_seconds: lifeSeconds };
}

function keyOf(x: string, service: Service): MeshKey {
  return { kty: "OKP", crv: "Ed25519", x, kid: thumbprintOf(x), alg: "EdDSA", use: "sig", service };
}

function refuseUnlessHeld(key: MeshKey, proof: string): void {
  const refuse = (path: string, message: string): never => {
    throw new MusterError("VALIDATION_FAILED", undefined, { details: [{ path, message }] });
  };
  const { kty, crv, x } = key;
  // One spelling for each key, or one key would have several names.
  const canonical = Buffer.from(x, "base64url").toString("base64url") === x;
  if (!canonical || usableKeys({ keys: [key] }).keys.length === 0) refuse("x", "is no strong key on Ed25519");
  if (!isSigned(meshKeyProofText(key.service as Service), { kty, crv, x }, proof)) {
    refuse("proof", "is not by this key, for the service that asks");
  }
}

function isSigned(text: string, jwk: { kty: string; crv: string; x: string }, proof: string): boolean {
  try {
    const publicKey = createPublicKey({ key: jwk, format: "jwk" });
    return verify(null, Buffer.from(text), publicKey, Buffer.from(proof, "base64url"));
  } catch {
    return false;
  }
}

/** Whether it was not known, or not any more. */
async function keep(tx: Tx, key: MeshKey): Promise<boolean> {
  const known = await tx.query(
    "SELECT 1 FROM mesh_keys WHERE kid = $1 AND service = $2 AND expires_at > clock_timestamp()",
    [key.kid, key.service],
  );
  await tx.query(
    `INSERT INTO mesh_keys (kid, service, x, expires_at)
     VALUES ($1, $2, $3, clock_timestamp() + $4 * interval '1 second')
     ON CONFLICT (kid) DO UPDATE SET expires_at = EXCLUDED.expires_at, service = EXCLUDED.service`,
    [key.kid, key.service, key.x, lifeSeconds],
  );
  return known.length === 0;
}

/** However often a service starts anew, no other's keys are crowded out. */
async function dropOldest(tx: Tx, service: Service): Promise<void> {
  await tx.query(
    `DELETE FROM mesh_keys WHERE kid IN (
       SELECT kid FROM mesh_keys WHERE service = $1 ORDER BY expires_at DESC, kid OFFSET $2)`,
    [service, meshKeysOfServiceMax],
  );
}

function announce(tx: Tx, { kid, service }: MeshKey, context: RequestContext): void {
  const { correlationId, causationId, traceparent } = context;
  const payload = { kid, service, at: new Date().toISOString() };
  tx.publish(
    prepareEvent(meshKeysChanged, payload, { context: { correlationId, causationId, traceparent } }),
  );
}

/** What verifies a token of a service now. */
export async function findMeshKeys(tx: Tx): Promise<MeshKeys> {
  const rows = await tx.query<{ x: string; service: Service }>(
    "SELECT x, service FROM mesh_keys WHERE expires_at > clock_timestamp() ORDER BY expires_at DESC LIMIT 1000",
  );
  return meshKeys.parse({ keys: rows.map(({ x, service }) => keyOf(x, service)) });
}

/** Forgets keys whose process is gone; answers how many. */
export async function pruneMeshKeys(tx: Tx, limit: number): Promise<number> {
  return await tx.execute(
    `DELETE FROM mesh_keys WHERE kid IN (
       SELECT kid FROM mesh_keys WHERE expires_at <= clock_timestamp() LIMIT $1 FOR UPDATE SKIP LOCKED)`,
    [limit],
  );
}
