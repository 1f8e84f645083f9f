import { createCipheriv, createDecipheriv, createHash, randomBytes } from "node:crypto";

const nonceBytes = 12;
const tagBytes = 16;

/** Seals private keys at rest: AES-256-GCM, the key's id as associated data so that rows cannot be swapped. */
export interface Sealer {
  /** Names the sealing key without telling it. */
  readonly id: string;
  seal(plain: Buffer, subject: string): Buffer;
  /** Throws when the key is another one or a bit was changed. */
  open(sealed: Buffer, subject: string): Buffer;
  /** While the sealing key is changed: opens what the other one sealed, and seals nothing. */
  readonly other?: Sealer;
}

/** Who opens what the key of this id sealed; undefined when it is neither of the two. */
export const openerOf = (sealer: Sealer, id: string): Sealer | undefined =>
  [sealer, sealer.other].find((one) => one?.id === id);

export function sealerOf(key: Buffer, other?: Buffer): Sealer {
  if (key.length !== 32) throw new RangeError("a sealing key has 32 bytes");
  const associated = (subject: string) => Buffer.from(`muster.auth.signing-key:${subject}`);
  return {
    id: createHash("sha256").update("muster.auth.sealing-key:").update(key).digest("hex").slice(0, 16),
    seal(plain, subject) {
      const nonce = randomBytes(nonceBytes);
      const cipher = createCipheriv("aes-256-gcm", key, nonce, { authTagLength: tagBytes });
      cipher.setAAD(associated(subject));
      return Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
    },
    open(sealed, subject) {
      const nonce = sealed.subarray(0, nonceBytes);
      const decipher = createDecipheriv("aes-256-gcm", key, nonce, { authTagLength: tagBytes });
      decipher.setAAD(associated(subject));
      decipher.setAuthTag(sealed.subarray(sealed.length - tagBytes));
      const plain = decipher.update(sealed.subarray(nonceBytes, sealed.length - tagBytes));
      return Buffer.concat([plain, decipher.final()]);
    },
    ...(other === undefined ? {} : { other: sealerOf(other) }),
  };
}
