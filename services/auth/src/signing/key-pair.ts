import { createPrivateKey, generateKeyPair } from "node:crypto";
import type { KeyObject } from "node:crypto";
import { promisify } from "node:util";
import { uuidv7 } from "@muster/contracts/ids";
import { openerOf, type Sealer } from "./sealed.ts";
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
  const secret = opened(row, sealer);
  const privateKey = createPrivateKey({ key: secret, format: "der", type: "pkcs8" });
  return { kid: row.kid, alg: row.public_jwk.alg, privateKey };
}

/** The same key sealed by the one that seals now. Throws as `openedKey`. */
export function sealedAnew(row: SealedKey, sealer: Sealer): SealedKey {
  return { ...row, private_sealed: sealer.seal(opened(row, sealer), row.kid), sealed_with: sealer.id };
}

function opened(row: SealedKey, sealer: Sealer): Buffer {
  const opener = openerOf(sealer, row.sealed_with);
  if (opener === undefined) {
    const given = [sealer.id, sealer.other?.id].filter((id) => id !== undefined).join(" and ");
    throw new Error(
      `MUSTER_AUTH_KEY_ENCRYPTION_KEY is not the key that sealed signing key ${row.kid} ` +
        `(sealed with ${row.sealed_with}, given ${given}): give it the value of the other processes; ` +
        "if it is being changed, MUSTER_AUTH_KEY_ENCRYPTION_KEY_OTHER too",
    );
  }
  try {
    return opener.open(row.private_sealed, row.kid);
  } catch (cause) {
    throw new Error(
      `signing key ${row.kid} was damaged in the database: restore the row of auth.signing_keys, or revoke the key`,
      { cause },
    );
  }
}
