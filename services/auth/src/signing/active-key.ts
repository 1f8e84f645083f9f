import { createPrivateKey, generateKeyPair } from "node:crypto";
import type { KeyObject } from "node:crypto";
import { promisify } from "node:util";
import { uuidv7 } from "@muster/contracts/ids";
import type { Database } from "@muster/database/database";
import { recordAudit } from "../audit/store.ts";
import type { Sealer } from "./sealed.ts";
import { findActive, insertActive, lockSigningKeys } from "./store.ts";
import type { SigningKeyRow } from "./store.ts";

export interface SigningKey {
  readonly kid: string;
  readonly alg: string;
  readonly privateKey: KeyObject;
}

/** The key that signs; made by whoever comes first. Throws when the sealing key is not the one it was sealed with. */
export async function openActiveKey(
  database: Pick<Database, "transaction">,
  sealer: Sealer,
): Promise<SigningKey> {
  const row = await database.transaction("system", async (tx) => {
    await lockSigningKeys(tx);
    const existing = await findActive(tx);
    if (existing !== undefined) return existing;
    const made = await newSigningKey(sealer);
    await insertActive(tx, made);
    await recordAudit(tx, {
      tenantId: null,
      actor: "auth",
      action: "signing-key.created",
      subject: `signing-key:${made.kid}`,
    });
    return made;
  });
  return { kid: row.kid, alg: row.public_jwk.alg, privateKey: unsealed(row, sealer) };
}

async function newSigningKey(sealer: Sealer): Promise<SigningKeyRow> {
  const { publicKey, privateKey } = await promisify(generateKeyPair)("ed25519");
  const kid = uuidv7();
  const { kty, ...point } = publicKey.export({ format: "jwk" });
  if (kty === undefined) throw new Error("the new key has no type");
  const secret = privateKey.export({ format: "der", type: "pkcs8" });
  return {
    kid,
    public_jwk: { ...point, kty, kid, alg: "EdDSA", use: "sig" },
    private_sealed: sealer.seal(secret, kid),
    sealed_with: sealer.id,
  };
}

function unsealed(row: SigningKeyRow, sealer: Sealer): KeyObject {
  if (row.sealed_with !== sealer.id) {
    throw new Error(
      `MUSTER_AUTH_KEY_ENCRYPTION_KEY is not the key that sealed signing key ${row.kid} ` +
        `(sealed with ${row.sealed_with}, given ${sealer.id}): set it to the one this database was first started with`,
    );
  }
  try {
    const secret = sealer.open(row.private_sealed, row.kid);
    return createPrivateKey({ key: secret, format: "der", type: "pkcs8" });
  } catch (cause) {
    throw new Error(
      `signing key ${row.kid} was damaged in the database: restore the row of auth.signing_keys`,
      {
        cause,
      },
    );
  }
}
