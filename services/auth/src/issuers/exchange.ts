import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { tokenRequests } from "@muster/contracts/tokens";
import { KeysUnavailable } from "@muster/identity/keys";
import type { Logger } from "@muster/telemetry/logger";
import type { Counter, Metrics } from "@muster/telemetry/metrics";
import { scopeRefusal } from "../tokens/issue.ts";
import type { TokenDeps } from "../tokens/issue.ts";
import { narrowed, scopeOf, scopeText } from "../tokens/scope.ts";
import { meantBy, rankBy } from "./claims.ts";
import type { TrustedIssuer } from "./claims.ts";
import type { IssuerKeys } from "./keys.ts";
import { TokenRefused } from "./refused.ts";
import { findTrusted, trustedAsOf } from "./store.ts";
import { admit } from "./users.ts";
import { readToken, verifyBy } from "./verify.ts";
import type { Presented, Vouched } from "./verify.ts";

type Exchange = (typeof tokenRequests)["exchangeToken"];
type Asked = PayloadOf<Exchange>;

export interface ExternalDeps extends Pick<TokenDeps, "database" | "limits" | "signing" | "mint"> {
  readonly keys: Pick<IssuerKeys, "find">;
  readonly logger: Logger;
  /** By `outcome`: `exchanged`, `unavailable`, or why it was refused. */
  readonly exchanges: Counter;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

export const exchangesOf = (metrics: Metrics): Counter =>
  metrics.counter({
    name: "muster_auth_external_tokens_total",
    help: "Tokens of outside issuers: exchanged, refused and why, or not judged because the issuer was away.",
    labels: ["outcome"],
  });

/**
 * A token of an issuer that a tenant trusts to an access token of that tenant (RFC 8693), which lives no longer than what was
 * presented. Throws INVALID_GRANT; INVALID_SCOPE, which changes nothing; DEPENDENCY_UNAVAILABLE where the issuer's keys
 * cannot be had, which says nothing of the token; RATE_LIMITED.
 */
export async function exchangeToken(deps: ExternalDeps, asked: Asked): Promise<ReplyInputOf<Exchange>> {
  let issuer: TrustedIssuer | undefined;
  try {
    const presented = readToken(asked.subject_token, asked.subject_token_type);
    issuer = await issuerOf(deps, presented, asked.tenant_id);
    const vouched = await verifyBy(issuer, presented, { keys: deps.keys, nowMs: deps.now() });
    const reply = await grant(deps, issuer, { presented, vouched, asked });
    deps.exchanges.inc({ outcome: "exchanged" });
    return reply;
  } catch (error) {
    const refused = refusal(deps, issuer, error);
    throw (error instanceof TokenRefused ? await countFailure(deps, asked) : undefined) ?? refused;
  }
}

/** By the address alone: what is in a token that nobody vouches for names nobody. */
async function countFailure(
  { database, limits }: ExternalDeps,
  asked: Asked,
): Promise<MusterError | undefined> {
  const outcome = { address: asked.client_address, failed: true, credentials: [] } as const;
  const [limited] = await database.transaction("system", (tx) =>
    limits.count(tx, tokenRequests.exchangeToken, [outcome]),
  );
  return limited;
}

async function issuerOf(
  { database }: ExternalDeps,
  { claims }: Presented,
  tenantId: string | undefined,
): Promise<TrustedIssuer> {
  const trusted = await database.transaction("system", (tx) => findTrusted(tx, claims, tenantId ?? null), {
    readOnly: true,
  });
  const meant = meantBy(trusted, claims);
  if (meant === "none") throw new TokenRefused("untrusted", "no tenant trusts its issuer for its audience");
  if (meant === "ambiguous") {
    throw new TokenRefused("ambiguous", "several tenants trust its issuer; the caller must name one");
  }
  return meant;
}

async function grant(
  { database, limits, signing, mint, now }: ExternalDeps,
  issuer: TrustedIssuer,
  o: { presented: Presented; vouched: Vouched; asked: Asked },
): Promise<ReplyInputOf<Exchange>> {
  const { claims } = o.presented;
  const { scope, offline } = scopeOf(o.asked.scope);
  if (offline) {
    const message = "offline_access is not given for an issuer's token; present the issuer's next one";
    throw new MusterError("INVALID_SCOPE", undefined, { details: [{ path: "scope", message }] });
  }
  const rank = rankBy(issuer, claims);
  if (rank === undefined) {
    throw new TokenRefused("no-role", `claim ${issuer.rolesClaim} has no value that gives a role`);
  }
  const atMs = now();
  const given = await database.transaction("system", async (tx) => {
    const { id, role, permissions } = await admit(tx, issuer, { vouched: o.vouched, claims, rank });
    const asOf = await trustedAsOf(tx, issuer);
    if (asOf === undefined) throw new TokenRefused("untrusted", "its issuer was removed");
    const who = {
      tenant_id: issuer.tenantId,
      subject: `user:${id}`,
      roles: [role],
      permissions: [...permissions],
    };
    const beyond = scopeRefusal(who, scope);
    if (beyond !== undefined) throw beyond;
    const outcome = {
      address: o.asked.client_address,
      failed: false,
      who: { tenantId: who.tenant_id, subject: who.subject },
    } as const;
    const [limited] = await limits.count(tx, tokenRequests.exchangeToken, [outcome]);
    // Answered and not thrown: what was counted is kept.
    return limited ?? { principal: narrowed(who, scope), asOf, kid: await signing.activeKid(tx) };
  });
  if (given instanceof MusterError) throw given;
  const { principal, asOf, kid } = given;
  const id = [`issuer:${issuer.id}`, principal.subject, ...(scope ?? [])].join(" ");
  const { token, expiresInSeconds } = await mint(id, principal, o.vouched.expiresAt, {
    key: await signing.keyOf(kid),
    atMs,
    origin: { asOf, via: [`issuer:${issuer.id}`] },
  });
  return {
    access_token: token,
    expires_in_seconds: expiresInSeconds,
    principal,
    scope: scopeText(principal, false),
    refresh_token: null,
    refresh_expires_at: null,
  };
}

function refusal(
  { logger, exchanges }: ExternalDeps,
  issuer: TrustedIssuer | undefined,
  error: unknown,
): unknown {
  const of = { issuer: issuer?.id, tenant: issuer?.tenantId };
  if (error instanceof KeysUnavailable) {
    exchanges.inc({ outcome: "unavailable" });
    return new MusterError("DEPENDENCY_UNAVAILABLE", undefined, { cause: error, retryAfterMs: 1_000 });
  }
  if (!(error instanceof TokenRefused)) return error;
  exchanges.inc({ outcome: error.reason });
  logger.info({ ...of, reason: error.reason, err: error }, "a token of an outside issuer was refused");
  const details = error.isTold ? [{ path: "subject_token", message: error.message }] : [];
  return new MusterError("INVALID_GRANT", undefined, { details, cause: error });
}
