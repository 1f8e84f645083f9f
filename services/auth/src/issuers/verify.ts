import { readJson } from "@muster/identity/json";
import { KeysUnavailable } from "@muster/identity/keys";
import { errors, jwtVerify } from "jose";
import { z } from "zod";
import { isObject } from "./claims.ts";
import type { Claims, TrustedIssuer } from "./claims.ts";
import type { IssuerKeys } from "./keys.ts";
import { TokenRefused } from "./refused.ts";

/** A token as it is written; nothing of it is proven. */
export interface Presented {
  readonly token: string;
  readonly claims: Claims;
}

/** What its issuer says, by its signature. */
export interface Vouched {
  /** Who it is to the issuer. */
  readonly subject: string;
  readonly issuedAt: Date;
  readonly expiresAt: Date;
}

/** How much an issuer's clock may differ from ours. */
export const clockToleranceSeconds = 30;

const accessTokenTypes = ["at+jwt", "application/at+jwt"];
const header = z.looseObject({
  alg: z.string(),
  // Some issuers' are base64 with all its characters.
  kid: z.string().regex(/^[!-~]{1,256}$/),
  typ: z.string().optional(),
});
/** Where a token would tell us what to verify it with, or how else to read it. */
const refusedHeaders = ["jwk", "jku", "x5u", "x5c", "crit", "b64", "zip"];

/**
 * RFC 8725 for tokens of others: one compact JWS in its only spelling, no member twice, a type that is no other kind of
 * token's. Throws TokenRefused.
 */
export function readToken(token: string, subjectTokenType: string): Presented {
  const [head, claims] = partsOf(token);
  const read = header.safeParse(head);
  if (!read.success) throw new TokenRefused("malformed", "its header has no usable alg, kid or typ");
  const refused = refusedHeaders.find((name) => name in read.data);
  if (refused !== undefined) throw new TokenRefused("malformed", `its header has ${refused}`);
  const type = read.data.typ?.toLowerCase() ?? "jwt";
  const isAccessToken = accessTokenTypes.includes(type);
  if (!isAccessToken && type !== "jwt") throw new TokenRefused("malformed", "it is of another type");
  if (isAccessToken && subjectTokenType.endsWith(":id_token")) {
    throw new TokenRefused("malformed", "an access token is no ID token");
  }
  return { token, claims };
}

function partsOf(token: string): [Claims, Claims] {
  const parts = token.split(".").map((part) => Buffer.from(part, "base64url"));
  if (parts.length !== 3 || parts.map((part) => part.toString("base64url")).join(".") !== token) {
    throw new TokenRefused("malformed", "it is no compact JWS");
  }
  const [head, claims] = parts.slice(0, 2).map(objectIn);
  if (head === undefined || claims === undefined) {
    throw new TokenRefused("malformed", "its header or claims are no JSON object that says one thing");
  }
  return [head, claims];
}

function objectIn(part: Buffer): Claims | undefined {
  try {
    const value = readJson(part);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

const vouched = z.object({
  sub: z.string().regex(/^[^\p{Cc}\p{Cs}]{1,255}$/u),
  iat: z.number().positive(),
  exp: z.number().positive(),
});

/** Whether the issuer says so now. Throws TokenRefused, or KeysUnavailable where the issuer cannot be asked. */
export async function verifyBy(
  issuer: TrustedIssuer,
  { token, claims }: Presented,
  o: { keys: Pick<IssuerKeys, "find">; nowMs: number },
): Promise<Vouched> {
  try {
    await jwtVerify(token, (head, jws) => o.keys.find(issuer, head, jws), {
      algorithms: [...issuer.algorithms],
      issuer: issuer.issuer,
      audience: issuer.audience,
      requiredClaims: ["exp", "iat", "sub"],
      clockTolerance: clockToleranceSeconds,
      currentDate: new Date(o.nowMs),
    });
  } catch (error) {
    throw refusalOf(error);
  }
  // A token that is bound to a key is worth nothing without a proof of that key, for which there is no place here.
  if (claims["cnf"] !== undefined) throw new TokenRefused("bound", "the token is bound to a key (cnf)");
  const read = vouched.safeParse(claims);
  if (!read.success) throw new TokenRefused("claims", "claim sub, iat or exp is wrong");
  const { sub, iat, exp } = read.data;
  if (iat > o.nowMs / 1_000 + clockToleranceSeconds) {
    throw new TokenRefused("not-yet-valid", "the token is from the future (iat)");
  }
  return {
    subject: sub,
    issuedAt: new Date(iat * 1_000),
    expiresAt: new Date(Math.min(exp * 1_000, endOfTime)),
  };
}

/** The latest that a Date can be. */
const endOfTime = 8.64e15;

function refusalOf(error: unknown): unknown {
  if (error instanceof KeysUnavailable) return error;
  if (error instanceof errors.JWTExpired) return new TokenRefused("expired", "the token has expired", error);
  if (error instanceof errors.JWTClaimValidationFailed) {
    return error.claim === "nbf" && error.reason === "check_failed"
      ? new TokenRefused("not-yet-valid", "the token is not valid yet (nbf)", error)
      : new TokenRefused("claims", `claim ${error.claim} is wrong`, error);
  }
  return new TokenRefused("signature", "its signature cannot be verified", error);
}
