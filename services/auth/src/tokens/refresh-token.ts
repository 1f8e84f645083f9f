import { createHash, createHmac, randomBytes } from "node:crypto";
import { storedHash } from "../api-keys/key.ts";

const bytes = 32;

export interface MadeToken {
  /** `mr_<secret>`, 256 bits. */
  readonly token: string;
  /** What the table keeps of it. */
  readonly hash: Buffer;
}

const made = (secret: Buffer): MadeToken => {
  const token = `mr_${secret.toString("base64url")}`;
  return { token, hash: storedHash(createHash("sha256").update(token).digest("hex")) };
};

/** The first of a family. */
export const firstToken = (): MadeToken => made(randomBytes(bytes));

export const newSalt = (): Buffer => randomBytes(bytes);

/**
 * The next of a family, from what was presented (its SHA-256, hex) and the random salt of this use. Nobody can tell it
 * from random without both: the table has the salt alone, whoever holds the old token has not the salt. With both it can
 * be made again, so an answer that was lost can be given once more though no token is kept.
 */
export function nextToken(presentedSha256: string, salt: Buffer): MadeToken {
  return made(createHmac("sha256", Buffer.from(presentedSha256, "hex")).update(salt).digest());
}

/** Names one request: the same key with another scope is another request. */
export function requestHash(key: string, scope: string | undefined): Buffer {
  return createHash("sha256")
    .update(JSON.stringify([key, scope ?? null]))
    .digest();
}
