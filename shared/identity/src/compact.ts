import { MusterError } from "@muster/contracts/errors";
import { decodeProtectedHeader, errors, jwtVerify } from "jose";
import type { CryptoKey, FlattenedJWSInput, JWSHeaderParameters, JWTPayload } from "jose";
import { ZodError } from "zod";
import { isCanonical } from "./form.ts";
import { KeysUnavailable } from "./keys.ts";

/** What a token of one kind must be. Kinds exclude each other: by type, by issuer, and by the keys that verify them. */
export interface Rules {
  readonly find: (header: JWSHeaderParameters, token: FlattenedJWSInput) => Promise<CryptoKey>;
  readonly typ: string;
  readonly algorithms: readonly string[];
  readonly issuer: string;
  readonly audience: string;
  readonly requiredClaims: readonly string[];
  readonly clockToleranceMs: number;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

/** Longer is no token of ours: the envelope's `identity` has the same limit. */
const tokenCharsMax = 4_096;
const compactForm = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/;

/** Where a refusal says that an access token stands. */
export const accessTokenPlace = "header.authorization";

/** Not a token of ours, in words for whoever sent it. */
export class NoToken extends Error {
  override readonly name = "NoToken";
}

/**
 * RFC 8725: allow-listed algorithms, own keys only, explicit type, issuer and audience, every claim required. What it throws is for
 * `asRefusal`.
 */
export async function verifyCompact(token: string, o: Rules): Promise<JWTPayload> {
  if (token.length > tokenCharsMax || !compactForm.test(token)) throw new NoToken("not a compact JWS");
  if (!isCanonical(token)) throw new NoToken("not written as the issuer writes tokens");
  const header = decodeProtectedHeader(token);
  if (typeof header.kid !== "string" || !/^[\w.-]{1,128}$/.test(header.kid))
    throw new NoToken("no usable kid");
  for (const carried of ["jwk", "jku", "x5u", "x5c", "crit", "b64", "zip"]) {
    if (carried in header) throw new NoToken(`header ${carried} is not allowed`);
  }
  const { payload } = await jwtVerify(token, (protectedHeader, jws) => o.find(protectedHeader, jws), {
    algorithms: [...o.algorithms],
    typ: o.typ,
    issuer: o.issuer,
    audience: o.audience,
    requiredClaims: [...o.requiredClaims],
    clockTolerance: o.clockToleranceMs / 1_000,
    currentDate: new Date(o.now()),
  });
  return payload;
}

/**
 * What the caller brought is void. A token that was made from it says the same as it does: there is none that its maker could
 * try instead.
 */
export function asRevoked(): MusterError {
  const details = [{ path: accessTokenPlace, message: "the token was revoked" }];
  return new MusterError("INVALID_OR_MISSING_BEARER_TOKEN", undefined, { details });
}

/** The code for whatever went wrong with a token that stands in `place` of a request. */
export function asRefusal(error: unknown, place: string): MusterError {
  const invalid = (message: string): MusterError =>
    new MusterError("INVALID_OR_MISSING_BEARER_TOKEN", undefined, {
      details: [{ path: place, message }],
      cause: error,
    });
  if (error instanceof MusterError) return error;
  if (error instanceof NoToken) return invalid(error.message);
  if (error instanceof KeysUnavailable) {
    return new MusterError("DEPENDENCY_UNAVAILABLE", undefined, { cause: error, retryAfterMs: 1_000 });
  }
  if (error instanceof errors.JWTExpired) return invalid("the token has expired");
  if (error instanceof errors.JWTClaimValidationFailed) return invalid(`claim ${error.claim} is wrong`);
  if (error instanceof ZodError) return invalid(`claim ${String(error.issues[0]?.path[0] ?? "")} is wrong`);
  // Which of algorithm, key or signature failed is nobody's business but ours.
  return invalid("the token's signature cannot be verified");
}
