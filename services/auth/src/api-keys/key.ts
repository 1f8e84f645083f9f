import { createHash, randomBytes, randomInt, timingSafeEqual } from "node:crypto";

const prefixAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789";
const prefixChars = 10;
const secretBytes = 32;

/** A new key `mk_<prefix>_<secret>`: 256 random bits after a prefix that may be shown. */
export function newApiKey(): { readonly key: string; readonly prefix: string; readonly hash: Buffer } {
  const prefix = Array.from(
    { length: prefixChars },
    () => prefixAlphabet[randomInt(prefixAlphabet.length)],
  ).join("");
  const key = `mk_${prefix}_${randomBytes(secretBytes).toString("base64url")}`;
  const keySha256 = createHash("sha256").update(key).digest("hex");
  return { key, prefix, hash: storedHash(keySha256) };
}

/** What the table keeps of a key, from the SHA-256 that travels. */
export function storedHash(keySha256: string): Buffer {
  return createHash("sha256").update(Buffer.from(keySha256, "hex")).digest();
}

const nobody = Buffer.alloc(32);

/** As long for an unknown key as for a known one. */
export function sameHash(kept: Buffer | undefined, offered: Buffer): boolean {
  const same = timingSafeEqual(kept?.length === offered.length ? kept : nobody, offered);
  return kept !== undefined && same;
}
