import type { JSONWebKeySet } from "jose";
import { z } from "zod";

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

/** What a key has that verifies; of anything else, certificates above all, nothing is kept. */
const foreignKey = z.object({
  kty: z.enum(["RSA", "EC", "OKP"]),
  kid: z.string().min(1).max(256),
  alg: z.string().max(16).optional(),
  use: z.literal("sig").optional(),
  key_ops: z.array(z.string().max(16)).max(8).optional(),
  crv: z.string().max(16).optional(),
  n: z.string().max(2_048).optional(),
  e: z.literal("AQAB").optional(),
  x: z.string().max(128).optional(),
  y: z.string().max(128).optional(),
  // A private key that everybody can read is nobody's.
  d: z.undefined().optional(),
});
type ForeignKey = z.output<typeof foreignKey>;

const curveOf = new Map([
  ["ES256", "P-256"],
  ["ES384", "P-384"],
  ["ES512", "P-521"],
]);
const rsaBytes = { min: 256, max: 1_024 };

/**
 * The keys of another issuer's set that may verify by these algorithms: public, named, for signatures, and not weak. A key
 * that names no algorithm serves those of its type. One that is of no use leaves the others as they are.
 */
export function usableForeignKeys({ keys }: { keys: readonly unknown[] }, algorithms: readonly string[]) {
  const usable = keys.flatMap((key) => {
    const { data } = foreignKey.safeParse(key);
    return data !== undefined && algorithms.some((alg) => fits(data, alg)) ? [strip(data)] : [];
  });
  return { keys: usable } satisfies JSONWebKeySet;
}

function fits(key: ForeignKey, alg: string): boolean {
  if (key.alg !== undefined && key.alg !== alg) return false;
  if (alg === "EdDSA") return key.kty === "OKP" && key.crv === "Ed25519" && isStrongPoint(key.x ?? "");
  const curve = curveOf.get(alg);
  if (curve !== undefined) return key.kty === "EC" && key.crv === curve;
  const modulus = Buffer.from(key.n ?? "", "base64url");
  const size =
    modulus.length -
    Math.max(
      0,
      modulus.findIndex((byte) => byte !== 0),
    );
  return key.kty === "RSA" && key.e !== undefined && size >= rsaBytes.min && size <= rsaBytes.max;
}

/** Members that are not there must not be there for jose either. */
const strip = (key: ForeignKey): Jwk =>
  Object.fromEntries(Object.entries(key).filter(([, value]) => value !== undefined));

function isStrongPoint(x: string): boolean {
  const point = Buffer.from(x, "base64url");
  if (point.length !== 32) return false;
  point[31]! &= 0x7f;
  return !smallOrder.has(point.toString("hex"));
}
