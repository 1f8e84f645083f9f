import { MusterError } from "@muster/contracts/errors";
import type { TokenRevocation } from "@muster/contracts/token-revocations";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { randomUUID } from "node:crypto";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import type { CryptoKey, JSONWebKeySet } from "jose";
import { openVerifier } from "../src/verify.ts";
import type { VerifierOptions } from "../src/verify.ts";

export const startMs = Date.UTC(2030, 0, 1);
export const seconds = (ms: number) => Math.floor(ms / 1_000);

export async function keyPair(kid: string, alg: "EdDSA" | "ES256" = "ES256") {
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
  return { kid, alg, publicKey, privateKey, jwk: { ...(await exportJWK(publicKey)), kid, alg, use: "sig" } };
}
export type Pair = Awaited<ReturnType<typeof keyPair>>;

export interface Changes {
  readonly claims?: Readonly<Record<string, unknown>>;
  readonly header?: Readonly<Record<string, unknown>>;
  readonly key?: CryptoKey;
}

/** An issuer of tokens with one key, and a verifier that trusts it. */
export async function setup(o: Partial<VerifierOptions> = {}) {
  const pair = await keyPair("k1");
  const clock = { nowMs: startMs };
  const issuer = {
    keys: [pair.jwk] as JSONWebKeySet["keys"],
    fetches: 0,
    failing: false,
    revocations: [] as TokenRevocation[],
    lists: 0,
    listFailing: false,
  };
  const metrics = createMetrics({ service: "test" });
  const verifier = openVerifier({
    fetchKeys: async () => {
      issuer.fetches += 1;
      await Promise.resolve();
      if (issuer.failing) throw new Error("no answer");
      return { keys: issuer.keys };
    },
    // Two to a page, whatever is asked for: what is read is more than one.
    fetchRevocations: async ({ cursor = "0" }) => {
      issuer.lists += 1;
      await Promise.resolve();
      if (issuer.listFailing) throw new Error("no answer");
      const end = Number(cursor) + 2;
      const next_cursor = end < issuer.revocations.length ? String(end) : null;
      return { items: issuer.revocations.slice(Number(cursor), end), next_cursor };
    },
    mode: "enforced",
    shadowTenantId: "shadow-tenant",
    metrics,
    logger: openLogger({ service: "test", level: "silent" }),
    now: () => clock.nowMs,
    ...o,
  });
  const claimsOf = (changes: Changes = {}): Record<string, unknown> => {
    const now = seconds(clock.nowMs);
    const claims = {
      iss: "https://auth.muster",
      aud: "muster",
      sub: "user:0190aaaa",
      jti: randomUUID(),
      iat: now,
      exp: now + 600,
      tenant_id: "acme",
      roles: ["admin"],
      permissions: ["approvals.review.prod"],
      ...changes.claims,
    };
    return JSON.parse(JSON.stringify(claims)) as Record<string, unknown>;
  };
  const tokenOf = (changes: Changes = {}, from: Pair = pair) => {
    const header = { alg: from.alg, kid: from.kid, typ: "at+jwt", ...changes.header };
    return new SignJWT(claimsOf(changes)).setProtectedHeader(header).sign(changes.key ?? from.privateKey);
  };
  return { pair, clock, issuer, metrics, verifier, claimsOf, tokenOf };
}
export type Issuer = Awaited<ReturnType<typeof setup>>;

export async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (error instanceof MusterError) return error.code;
    throw error;
  }
  return "accepted";
}

export const invalid = "INVALID_OR_MISSING_BEARER_TOKEN";
