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
import type { JSONWebKeySet } from "jose";
import { readClaims } from "./claims.ts";
import type { Verified } from "./claims.ts";
import { accessTokenPlace, asRefusal, asRevoked, verifyCompact } from "./compact.ts";
import type { Rules } from "./compact.ts";
import { KeySet } from "./keys.ts";
import { openRefresher } from "./refresher.ts";
import type { RevocationsPage } from "./revocations.ts";
import { openRevoked } from "./revoked.ts";
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
  const revoked = openRevoked(o, { maxAgeMs, staleMaxMs, now });
  const rules: Rules = {
    find: (header, token) => keys.find(header, token),
    now,
    typ: accessTokenType,
    algorithms: accessTokenAlgorithms,
    requiredClaims: ["exp", "iat", "sub", "jti", "tenant_id"],
    issuer: o.issuer ?? accessTokenIssuer,
    audience: o.audience ?? accessTokenAudience,
    clockToleranceMs: o.clockToleranceMs ?? 5_000,
  };
  const refused = openRefusals(o);

  return {
    async verify(token, asked = "") {
      if (token === undefined || token === "") return refused(new MusterError("MISSING_BEARER_TOKEN"), asked);
      try {
        const waiting = revoked.wait();
        if (waiting !== undefined) await waiting;
        const before = epoch;
        const known = cache.get(token, now());
        const verified = known ?? readClaims(await verifyCompact(token, rules));
        if (known === undefined && epoch === before) cache.put(token, verified);
        // Last: what was revoked while its signature was looked at counts.
        if (revoked.isVoid(verified)) throw asRevoked();
        return verified.principal;
      } catch (error) {
        return refused(asRefusal(error, accessTokenPlace), asked);
      }
    },
    keysChanged(revokedKids = []) {
      keys.revoke(revokedKids);
      refresher.wake();
    },
    tokensRevoked: (revocation) => revoked.heard(revocation),
    isVoid: (token) => revoked.isVoid(token),
    close() {
      refresher.close();
      revoked.close();
      cache.clear();
      return Promise.resolve();
    },
  };
}

/** Counts a refusal, and answers it in shadow mode with the shadow principal. */
export function openRefusals(
  o: Pick<VerifierOptions, "metrics" | "mode" | "shadowTenantId" | "logger">,
): (error: MusterError, asked: string) => Principal {
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
