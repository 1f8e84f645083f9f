import { createPrivateKey, generateKeyPair } from "node:crypto";
import type { KeyObject } from "node:crypto";
import { promisify } from "node:util";
import { uuidv7 } from "@muster/contracts/ids";
import type { Sealer } from "./sealed.ts";
import type { SealedKey } from "./store.ts";

export interface SigningKey {
  readonly kid: string;
  readonly alg: string;
  readonly privateKey: KeyObject;
}

export async function newKeyPair(sealer: Sealer): Promise<SealedKey> {
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

/** Throws when the sealing key is not the one it was sealed with, or the row was damaged. */
export function openedKey(row: SealedKey, sealer: Sealer): SigningKey {
  if (row.sealed_with !== sealer.id) {
    throw new Error(
      `MUSTER_AUTH_KEY_ENCRYPTION_KEY is not the key that sealed signing key ${row.kid} ` +
        `(sealed with ${row.sealed_with}, given ${sealer.id}): set it to the one this database was first started with`,
    );
  }
  try {
    const secret = sealer.open(row.private_sealed, row.kid);
    const privateKey = createPrivateKey({ key: secret, format: "der", type: "pkcs8" });
    return { kid: row.kid, alg: row.public_jwk.alg, privateKey };
  } catch (cause) {
    throw new Error(
      `signing key ${row.kid} was damaged in the database: restore the row of auth.signing_keys, or revoke the key`,
      { cause },
    );
  }
}
