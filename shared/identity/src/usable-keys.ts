import type { JSONWebKeySet } from "jose";

type Jwk = JSONWebKeySet["keys"][number];

/**
 * Encodings of the points of small order on Ed25519, without the sign: to such a key there are signatures that fit any
 * text. The list is that of libsodium's `ge25519_has_small_order`.
 */
const smallOrder = new Set([
  "0000000000000000000000000000000000000000000000000000000000000000",
  "0100000000000000000000000000000000000000000000000000000000000000",
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]);

/** The keys of a set that may verify: each bound to one algorithm of ours, and not weak. */
export function usableKeys({ keys }: JSONWebKeySet): JSONWebKeySet {
  return { keys: keys.filter(isUsable) };
}

function isUsable({ kty, crv, alg, x }: Jwk): boolean {
  // jose looks, as it imports a key, whether it is public and its point on P-256.
  if (alg === "ES256") return kty === "EC" && crv === "P-256";
  return alg === "EdDSA" && kty === "OKP" && crv === "Ed25519" && isStrongPoint(x ?? "");
}

function isStrongPoint(x: string): boolean {
  const point = Buffer.from(x, "base64url");
  if (point.length !== 32) return false;
  point[31]! &= 0x7f;
  return !smallOrder.has(point.toString("hex"));
}
