import { createHash, randomBytes } from "node:crypto";
import { storedHash } from "../api-keys/key.ts";

/** `mp_<secret>`, 256 bits, and what the table keeps of it. */
export function newPairingCode(): { readonly code: string; readonly hash: Buffer } {
  const code = `mp_${randomBytes(32).toString("base64url")}`;
  return { code, hash: storedHash(createHash("sha256").update(code).digest("hex")) };
}
