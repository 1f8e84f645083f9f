import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { keyBytes } from "../../keys/keys.ts";
import type { KeyEncryptionKey } from "../../keys/keys.ts";
import type { Place } from "../vault.ts";

const algorithm = "aes-256-gcm";
const nonceBytes = 12;
const tagBytes = 16;

/** What a row holds: the material by a data key of its own, and that key by the key-encryption key. */
export interface Envelope {
  readonly kekId: string;
  readonly wrappedKey: Buffer;
  readonly sealed: Buffer;
}

/** In both ciphertexts: neither opens in another place. No part has the separator. */
const placeText = (part: "key" | "material", { tenantId, secretId, version }: Place): Buffer =>
  Buffer.from(`muster.secrets.sealed.${part}|${tenantId}|${secretId}|${version}`);

export function sealVersion(plain: Uint8Array, place: Place, kek: KeyEncryptionKey): Envelope {
  const dataKey = randomBytes(keyBytes);
  return {
    kekId: kek.id,
    wrappedKey: seal(dataKey, kek.bytes, placeText("key", place)),
    sealed: seal(plain, dataKey, placeText("material", place)),
  };
}

/** Throws when the key is another one, or a bit or the place was changed. */
export function openVersion(
  envelope: Pick<Envelope, "wrappedKey" | "sealed">,
  place: Place,
  kek: KeyEncryptionKey,
): Buffer {
  const dataKey = open(envelope.wrappedKey, kek.bytes, placeText("key", place));
  return open(envelope.sealed, dataKey, placeText("material", place));
}

/** The same data key by another key: the material need not be touched. Throws as `openVersion` does. */
export function rewrap(
  wrappedKey: Buffer,
  place: Place,
  o: { readonly from: KeyEncryptionKey; readonly to: KeyEncryptionKey },
): Buffer {
  const about = placeText("key", place);
  return seal(open(wrappedKey, o.from.bytes, about), o.to.bytes, about);
}

function seal(plain: Uint8Array, key: Buffer, about: Buffer): Buffer {
  const nonce = randomBytes(nonceBytes);
  const cipher = createCipheriv(algorithm, key, nonce, { authTagLength: tagBytes });
  cipher.setAAD(about);
  return Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

function open(sealed: Buffer, key: Buffer, about: Buffer): Buffer {
  const nonce = sealed.subarray(0, nonceBytes);
  const decipher = createDecipheriv(algorithm, key, nonce, { authTagLength: tagBytes });
  decipher.setAAD(about);
  decipher.setAuthTag(sealed.subarray(sealed.length - tagBytes));
  const plain = decipher.update(sealed.subarray(nonceBytes, sealed.length - tagBytes));
  return Buffer.concat([plain, decipher.final()]);
}
