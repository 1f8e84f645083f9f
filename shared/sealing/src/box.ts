import { createPrivateKey, createPublicKey, generateKeyPairSync, hkdfSync } from "node:crypto";
import type { KeyObject } from "node:crypto";
import { CompactEncrypt, compactDecrypt } from "jose";

/** Of a sealed box (RFC 7516): the sender's key is new for each, so that nobody but the reader opens it, not even the sender. */
const algorithm = "ECDH-ES";
const encryption = "A256GCM";
const type = "muster-sealed+jwe";

/** Both halves of a key on X25519. */
export interface BoxKey {
  /** The public half: 32 bytes in base64url. */
  readonly x: string;
  readonly privateKey: KeyObject;
}

/** This is no box of ours, or not for this key, or about something else; which of it is nobody's business. */
export class NotOpened extends Error {
  override readonly name = "NotOpened";
}

export function makeBoxKey(): BoxKey {
  return boxKeyOf(generateKeyPairSync("x25519").privateKey);
}

const seedBytes = 32;
/** PKCS #8 of a private key on X25519 (RFC 8410), up to its 32 bytes. */
const pkcs8Head = Buffer.from("302e020100300506032b656e04220420", "hex");

/** The same key for the same secret and purpose, in every process that knows the secret. */
export function deriveBoxKey(secret: Uint8Array, purpose: string): BoxKey {
  const seed = Buffer.from(hkdfSync("sha256", secret, Buffer.alloc(0), purpose, seedBytes));
  return boxKeyOf(createPrivateKey({ key: Buffer.concat([pkcs8Head, seed]), format: "der", type: "pkcs8" }));
}

function boxKeyOf(privateKey: KeyObject): BoxKey {
  const { x } = createPublicKey(privateKey).export({ format: "jwk" });
  if (x === undefined) throw new Error("no key on X25519");
  return { x, privateKey };
}

/** Throws a RangeError for what is no public key. */
function publicKeyOf(x: string): KeyObject {
  try {
    return createPublicKey({ key: { kty: "OKP", crv: "X25519", x }, format: "jwk" });
  } catch (cause) {
    throw new RangeError("no public key on X25519", { cause });
  }
}

/** For who holds the private half of `x` alone; `about` is said again at opening, and authenticated. Throws RangeError. */
export async function seal(plain: Uint8Array, o: { x: string; about: string }): Promise<string> {
  return await new CompactEncrypt(plain)
    .setProtectedHeader({ alg: algorithm, enc: encryption, typ: type, kid: o.x, about: o.about })
    .encrypt(publicKeyOf(o.x));
}

/** Throws NotOpened. */
export async function open(box: string, o: { key: BoxKey; about: string }): Promise<Uint8Array> {
  try {
    const { plaintext, protectedHeader } = await compactDecrypt(box, o.key.privateKey, {
      keyManagementAlgorithms: [algorithm],
      contentEncryptionAlgorithms: [encryption],
    });
    if (protectedHeader.typ !== type || protectedHeader["about"] !== o.about)
      throw new NotOpened("about something else");
    return plaintext;
  } catch (cause) {
    if (cause instanceof NotOpened) throw cause;
    throw new NotOpened("it cannot be opened", { cause });
  }
}

/** Whose box it is, as it says itself; undefined for what is no box. */
export function recipientOf(box: string): string | undefined {
  try {
    const header: unknown = JSON.parse(
      Buffer.from(box.slice(0, box.indexOf(".")), "base64url").toString("utf8"),
    );
    const kid: unknown =
      typeof header === "object" && header !== null ? Reflect.get(header, "kid") : undefined;
    return typeof kid === "string" ? kid : undefined;
  } catch {
    return undefined;
  }
}
