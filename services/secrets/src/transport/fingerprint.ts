import { createHmac, timingSafeEqual } from "node:crypto";
import { findKey } from "../keys/keys.ts";
import type { KeyEncryptionKey, Keys } from "../keys/keys.ts";

const purpose = "muster.secrets.fingerprint";

/** Of material, by a key: whether it is the same again can be told, and what it is cannot be guessed. */
export interface Fingerprint {
  readonly keyId: string;
  readonly digest: Buffer;
}

/** `about` is the tenant and what the material is for. */
export function fingerprintOf(keys: Keys, about: string, value: unknown): Fingerprint {
  return { keyId: keys.current.id, digest: digestOf(keys.current, about, value) };
}

/** False too where the key is not known any more that it was made by. */
export function isSame(kept: Fingerprint, keys: Keys, about: string, value: unknown): boolean {
  const key = findKey(keys, kept.keyId);
  return key !== undefined && timingSafeEqual(kept.digest, digestOf(key, about, value));
}

function digestOf(key: KeyEncryptionKey, about: string, value: unknown): Buffer {
  const hmac = createHmac("sha256", key.derive(purpose));
  return hmac.update(`${about}\0`).update(canonical(value)).digest();
}

/** The same text whatever the order of the fields. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}
