import { setTimeout as pause } from "node:timers/promises";
import { MusterError } from "@muster/contracts/errors";
import {
  accessTokenAlgorithms,
  accessTokenAudience,
  accessTokenIssuer,
  accessTokenType,
} from "@muster/contracts/principal";
import type { Principal } from "@muster/contracts/principal";
import type { TokenRevocation } from "@muster/contracts/token-revocations";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { decodeProtectedHeader, errors, jwtVerify } from "jose";
import type { JSONWebKeySet } from "jose";
import { ZodError } from "zod";
import { readClaims } from "./claims.ts";
import type { Verified } from "./claims.ts";
import { isCanonical } from "./form.ts";
import { KeySet, KeysUnavailable } from "./keys.ts";
import { Revocations } from "./revocations.ts";
import type { RevocationsOptions, RevocationsPage } from "./revocations.ts";
import { openShadow } from "./shadow.ts";
import { TokenCache } from "./token-cache.ts";

export interface VerifierOptions {
  /** Asks the issuer for its key set. */
  readonly fetchKeys: () => Promise<JSONWebKeySet>;
  /** Asks the issuer for the tokens that are void though they live, page by page. */
  readonly fetchRevocations: (page: { limit: number; cursor?: string }) => Promise<RevocationsPage>;
  readonly mode: "shadow" | "enforced";
  readonly shadowTenantId: string;
  readonly metrics: Metrics;
  readonly logger: Logger;
  readonly issuer?: string;
  readonly audience?: string;
  readonly clockToleranceMs?: number;
  readonly keysMaxAgeMs?: number;
  readonly keysCooldownMs?: number;
  /** How long known keys serve while the issuer does not answer. */
  readonly staleMaxMs?: number;
  readonly cacheTokensMax?: number;
  /** Subjects whose revocations are remembered one by one; beyond, whole tenants. */
  readonly revokedSubjectsMax?: number;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
}

export interface Verifier {
  /**
   * Who holds this access token. Throws MusterError MISSING_BEARER_TOKEN, INVALID_OR_MISSING_BEARER_TOKEN,
   * or DEPENDENCY_UNAVAILABLE when the keys cannot be had. In shadow mode the first two become the shadow principal, counted
   * by `asked`: the route or the wire name of what is asked for.
   */
  verify(token: string | undefined, asked?: string): Promise<Principal>;
  /**
   * The issuer's keys have changed: what these signed is refused from now on, and the set is fetched anew, again and
   * again until it comes.
   */
  keysChanged(revokedKids?: readonly string[]): void;
  /** These are void from now on; without any: some may have been missed, and the list is read anew, until it comes. */
  tokensRevoked(revocation?: TokenRevocation): void;
  /** Whether a token that was good has been revoked, as far as is known. */
  isVoid(token: Pick<Verified, "principal" | "origin">): boolean;
  close(): Promise<void>;
}

/** How soon a fetch that a change asked for is tried again. */
const refreshRetryMs = 500;
/** Longer is no token of ours: the envelope's `identity` has the same limit. */
const tokenCharsMax = 4_096;
const compactForm = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/;

export function openVerifier(o: VerifierOptions): Verifier {
  const now = o.now ?? Date.now;
  const staleMaxMs = o.staleMaxMs ?? 60 * 60_000;
  const maxAgeMs = Math.min(o.keysMaxAgeMs ?? 10 * 60_000, staleMaxMs);
  const cache = new TokenCache(o.cacheTokensMax ?? 10_000);
  // A token that was being verified while the keys changed is not kept: it may be by a key that is gone.
  let epoch = 0;
  const keys = new KeySet({
    fetchKeys: o.fetchKeys,
    maxAgeMs,
    // A set may be one missed fetch older than its age, and the next key is published for twice that before it signs.
    cooldownMs: Math.min(o.keysCooldownMs ?? 30_000, maxAgeMs),
    staleMaxMs,
    now,
    onFailed: (error) => o.logger.warn({ err: error }, "cannot fetch the issuer's keys"),
    onChanged: () => {
      epoch += 1;
      cache.clear();
    },
  });
  const refresher = openRefresher(keys);
  const revocations = openRevocations(o, { maxAgeMs, staleMaxMs, now });
  const relister = openRefresher(revocations);
  const checks = {
    keys,
    now,
    issuer: o.issuer ?? accessTokenIssuer,
    audience: o.audience ?? accessTokenAudience,
    clockToleranceMs: o.clockToleranceMs ?? 5_000,
  };
  const refused = openRefusals(o);

  return {
    async verify(token, asked = "") {
      if (token === undefined || token === "") return refused(new MusterError("MISSING_BEARER_TOKEN"), asked);
      try {
        const waiting = revocations.wait();
        if (waiting !== undefined) await waiting;
        const before = epoch;
        const known = cache.get(token, now());
        const verified = known ?? (await verifyToken(token, checks));
        if (known === undefined && epoch === before) cache.put(token, verified);
        // Last: what was revoked while its signature was looked at counts.
        if (revocations.voids(verified)) throw invalid("the token was revoked");
        return verified.principal;
      } catch (error) {
        return refused(asRefusal(error), asked);
      }
    },
    keysChanged(revokedKids = []) {
      keys.revoke(revokedKids);
      refresher.wake();
    },
    tokensRevoked(revocation) {
      if (revocation !== undefined) return revocations.add([revocation]);
      revocations.missed();
      relister.wake();
    },
    isVoid: (token) => revocations.voids(token),
    close() {
      refresher.close();
      relister.close();
      cache.clear();
      return Promise.resolve();
    },
  };
}

/** As old as keys may be, and as long in their place while the issuer is away. */
function openRevocations(
  { fetchRevocations, revokedSubjectsMax, logger, metrics }: VerifierOptions,
  ages: Pick<RevocationsOptions, "maxAgeMs" | "staleMaxMs" | "now">,
): Revocations {
  return new Revocations({
    ...ages,
    fetchPage: fetchRevocations,
    subjectsMax: revokedSubjectsMax ?? 50_000,
    onFailed: (error) => logger.warn({ err: error }, "cannot read the issuer's revocations"),
    metrics,
  });
}

/** Counts a refusal, and answers it in shadow mode with the shadow principal. */
function openRefusals(o: VerifierOptions): (error: MusterError, asked: string) => Principal {
  const failures = o.metrics.counter({
    name: "muster_auth_failures_total",
    help: "Tokens refused, or that would have been in enforced mode.",
    labels: ["code"],
  });
  if (o.mode === "enforced") {
    return (error) => {
      failures.inc({ code: error.code });
      throw error;
    };
  }
  const shadow = openShadow(o);
  return (error, asked) => {
    failures.inc({ code: error.code });
    return shadow.pass(error, asked);
  };
}

/** Reloads when woken, and again after a while for as long as that fails. */
function openRefresher(what: { reload(): Promise<void> }) {
  const closing = new AbortController();
  let wanted = false;
  let running: Promise<void> | undefined;

  async function run(): Promise<void> {
    while (wanted && !closing.signal.aborted) {
      wanted = false;
      try {
        await what.reload();
      } catch {
        // It has told of it.
        wanted = true;
        await pause(refreshRetryMs, undefined, { signal: closing.signal, ref: false }).catch(() => undefined);
      }
    }
    running = undefined;
  }
  return {
    wake(): void {
      wanted = true;
      running ??= run();
    },
    close(): void {
      closing.abort();
    },
  };
}

/** RFC 8725: allow-listed algorithms, own keys only, explicit type, issuer and audience, every claim required. */
async function verifyToken(
  token: string,
  o: { keys: KeySet; now: () => number; issuer: string; audience: string; clockToleranceMs: number },
): Promise<Verified> {
  if (token.length > tokenCharsMax || !compactForm.test(token)) throw invalid("not a compact JWS");
  if (!isCanonical(token)) throw invalid("not written as the issuer writes tokens");
  const header = decodeProtectedHeader(token);
  if (typeof header.kid !== "string" || !/^[\w.-]{1,128}$/.test(header.kid)) throw invalid("no usable kid");
  for (const carried of ["jwk", "jku", "x5u", "x5c", "crit", "b64", "zip"]) {
    if (carried in header) throw invalid(`header ${carried} is not allowed`);
  }
  const { payload } = await jwtVerify(token, (protectedHeader, jws) => o.keys.find(protectedHeader, jws), {
    algorithms: [...accessTokenAlgorithms],
    typ: accessTokenType,
    issuer: o.issuer,
    audience: o.audience,
    requiredClaims: ["exp", "iat", "sub", "jti", "tenant_id"],
    clockTolerance: o.clockToleranceMs / 1_000,
    currentDate: new Date(o.now()),
  });
  return readClaims(payload);
}

function invalid(reason: string, cause?: unknown): MusterError {
  const details = [{ path: "header.authorization", message: reason }];
  return new MusterError("INVALID_OR_MISSING_BEARER_TOKEN", undefined, { details, cause });
}

function asRefusal(error: unknown): MusterError {
  if (error instanceof MusterError) return error;
  if (error instanceof KeysUnavailable) {
    return new MusterError("DEPENDENCY_UNAVAILABLE", undefined, { cause: error, retryAfterMs: 1_000 });
  }
  if (error instanceof errors.JWTExpired) return invalid("the token has expired", error);
  if (error instanceof errors.JWTClaimValidationFailed)
    return invalid(`claim ${error.claim} is wrong`, error);
  if (error instanceof ZodError) {
    return invalid(`claim ${String(error.issues[0]?.path[0] ?? "")} is wrong`, error);
  }
  // Which of algorithm, key or signature failed is nobody's business but ours.
  return invalid("the token's signature cannot be verified", error);
}
