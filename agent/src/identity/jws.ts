import { sign, type KeyObject } from "node:crypto";

/** A compact JWS (RFC 7515) by an Ed25519 key. */
export function signed(claims: Readonly<Record<string, unknown>>, privateKey: KeyObject): string {
  const text = [{ alg: "EdDSA" }, claims]
    .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"))
    .join(".");
  return `${text}.${sign(null, Buffer.from(text), privateKey).toString("base64url")}`;
}
