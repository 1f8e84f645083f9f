import { createHash } from "node:crypto";
import { uuid } from "@muster/contracts/ids";
import { assertionAudience, assertionSecondsMax, pairingAudience } from "@muster/contracts/pairing";
import type { AgentPublicKey } from "@muster/contracts/pairing";
import { usableKeys } from "@muster/identity/usable-keys";
import { calculateJwkThumbprint, decodeJwt, decodeProtectedHeader, importJWK, jwtVerify } from "jose";
import { z } from "zod";

/** What an agent has signed does not hold: `message` is for our log. */
export class ProofRefused extends Error {
  override readonly name = "ProofRefused";
}

/** How far an agent's clock may be from ours. */
const toleranceSeconds = 60;

const assertionClaims = z.object({
  sub: uuid,
  iat: z.number().int(),
  exp: z.number().int(),
  jti: z.string().min(16).max(128),
});

export const thumbprintOf = (key: AgentPublicKey): Promise<string> => calculateJwkThumbprint(key);

/** The pairing's: whoever brings the key has its private half. Throws ProofRefused. */
export async function verifyPairing(
  proof: string,
  o: { readonly key: AgentPublicKey; readonly codeSha256: string; readonly nowMs: number },
): Promise<void> {
  const claims = await verified(proof, o.key, pairingAudience, o.nowMs);
  if (claims["sub"] !== o.codeSha256) throw new ProofRefused("it is for another code");
}

/** Whose an assertion says it is, before anything of it is proven; undefined where it names nobody. */
export function agentNamed(assertion: string): string | undefined {
  try {
    return uuid.safeParse(decodeJwt(assertion).sub).data;
  } catch {
    return undefined;
  }
}

export interface Assertion {
  readonly jtiHash: Buffer;
  readonly expiresAt: Date;
}

/** RFC 7523 §3: by the agent's own key, for us, short, and with an id of its own. Throws ProofRefused. */
export async function verifyAssertion(
  assertion: string,
  o: { readonly x: string; readonly nowMs: number },
): Promise<Assertion> {
  const key = { kty: "OKP", crv: "Ed25519", x: o.x } as const;
  const read = assertionClaims.safeParse(await verified(assertion, key, assertionAudience, o.nowMs));
  if (!read.success) throw new ProofRefused("a claim is missing or wrong", { cause: read.error });
  const { iat, exp, jti } = read.data;
  if (exp - iat > assertionSecondsMax)
    throw new ProofRefused(`it lives for more than ${assertionSecondsMax} s`);
  return {
    jtiHash: createHash("sha256").update(jti).digest(),
    expiresAt: new Date((exp + toleranceSeconds) * 1_000),
  };
}

async function verified(
  jws: string,
  key: AgentPublicKey,
  audience: string,
  nowMs: number,
): Promise<Record<string, unknown>> {
  const jwk = { ...key, alg: "EdDSA" };
  if (usableKeys({ keys: [jwk] }).keys.length === 0) throw new ProofRefused("the key is weak");
  try {
    const header = decodeProtectedHeader(jws);
    const carried = ["jwk", "jku", "x5u", "x5c", "crit", "b64", "zip"].find((name) => name in header);
    if (carried !== undefined) throw new ProofRefused(`header ${carried} is not allowed`);
    const { payload } = await jwtVerify(jws, await importJWK(jwk, "EdDSA"), {
      algorithms: ["EdDSA"],
      audience,
      requiredClaims: ["sub", "iat"],
      clockTolerance: toleranceSeconds,
      maxTokenAge: assertionSecondsMax,
      currentDate: new Date(nowMs),
    });
    return payload;
  } catch (error) {
    if (error instanceof ProofRefused) throw error;
    throw new ProofRefused("it cannot be verified", { cause: error });
  }
}
