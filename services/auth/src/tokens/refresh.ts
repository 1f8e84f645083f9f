import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { tokenRequests } from "@muster/contracts/tokens";
import type { Tx } from "@muster/database/database";
import { grantOf } from "../api-keys/grant.ts";
import { storedHash } from "../api-keys/key.ts";
import type { Outcome } from "../limits/limits.ts";
import { revokeTokensOf } from "../revocations/store.ts";
import { tellRevoked } from "../revocations/tell.ts";
import { auditFamily } from "./audit.ts";
import { scopeRefusal } from "./issue.ts";
import type { TokenDeps } from "./issue.ts";
import { newSalt, nextToken, requestHash } from "./refresh-token.ts";
import { narrowed, scopeOf, scopeText } from "./scope.ts";
import { endFamily, lockFamily, rotate } from "./store.ts";
import type { PresentedFamily, RefreshLife } from "./store.ts";
import { verdictOn } from "./verdict.ts";

type Refresh = (typeof tokenRequests)["refreshToken"];
type Revoke = (typeof tokenRequests)["revokeToken"];

/**
 * The next token of a family and an access token for what its key and holder are now. A used token revokes its family, and
 * that is committed although the answer is a refusal. Throws INVALID_GRANT alike for every reason; INVALID_SCOPE, which
 * uses nothing up, and RATE_LIMITED, which looks at nothing.
 */
export async function refreshToken(
  { database, limits, signing, mint, now, refreshLife }: TokenDeps,
  payload: PayloadOf<Refresh>,
): Promise<ReplyInputOf<Refresh>> {
  const { scope } = scopeOf(payload.scope);
  const atMs = now();
  const usedBy = requestHash(payload.request_key, payload.scope);
  const given = await database.transaction("system", async (tx) => {
    const { retrySeconds } = refreshLife;
    const family = await lockFamily(tx, storedHash(payload.token_sha256), { usedBy, retrySeconds });
    const verdict = family === undefined ? "refuse" : verdictOn(family);
    const works = verdict === "rotate" || verdict === "repeat" ? family : undefined;
    const [limited] = await limits.count(tx, tokenRequests.refreshToken, [outcomeOf(payload, works)]);
    // Refusals are answered and not thrown: what was counted, and that a family ended, is kept.
    if (limited !== undefined) return limited;
    if (family !== undefined && verdict === "reuse") await endReused(tx, family);
    if (works === undefined) return new MusterError("INVALID_GRANT");
    // As key and holder are now; the family's own scope is kept where it still fits.
    const kept = narrowed(grantOf(works.holder), works.scope);
    const beyond = scopeRefusal(kept, scope);
    if (beyond !== undefined) return beyond;
    const next = await nextOf(tx, works, { presented: payload.token_sha256, usedBy, life: refreshLife });
    return { family: works, principal: narrowed(kept, scope), ...next, kid: await signing.activeKid(tx) };
  });
  if (given instanceof MusterError) throw given;
  const { family, principal, token, endsAt, kid } = given;
  const minted = await mint(`refresh-family:${family.id}`, principal, family.expires_at, {
    key: await signing.keyOf(kid),
    atMs,
    origin: {
      asOf: family.tokens_as_of,
      via: [`api-key:${family.api_key_id}`, `refresh-family:${family.id}`],
    },
  });
  return {
    access_token: minted.token,
    expires_in_seconds: minted.expiresInSeconds,
    principal,
    scope: scopeText(principal, true),
    refresh_token: token,
    refresh_expires_at: endsAt.toISOString(),
  };
}

function outcomeOf(
  { client_address: address }: { readonly client_address?: string | undefined },
  works: PresentedFamily | undefined,
): Outcome {
  if (works === undefined) return { address, failed: true, credentials: [] };
  const { tenantId, kind, principalId } = works.holder;
  return { address, failed: false, who: { tenantId, subject: `${kind}:${principalId}` } };
}

/** A new token, or for a request that was repeated the one that it was given. */
async function nextOf(
  tx: Tx,
  family: PresentedFamily,
  o: { presented: string; usedBy: Buffer; life: RefreshLife },
): Promise<{ token: string; endsAt: Date }> {
  if (family.generation < family.uses && family.salt !== null) {
    return { token: nextToken(o.presented, family.salt).token, endsAt: family.ends_at };
  }
  const salt = newSalt();
  const { token, hash } = nextToken(o.presented, salt);
  const { idleSeconds } = o.life;
  return { token, endsAt: await rotate(tx, family, { usedBy: o.usedBy, salt, hash, idleSeconds }) };
}

async function endReused(tx: Tx, family: PresentedFamily): Promise<void> {
  await endFamily(tx, family);
  const { id, tenant_id: tenantId, generation, uses } = family;
  const of = { tenantId, id, actor: "auth" };
  await auditFamily(tx, of, "reuse-detected", { generation: String(generation), uses: String(uses) });
  await auditFamily(tx, of, "revoked", { reason: "reuse" });
  await voidTokensOf(tx, family, "refresh-token-reused");
}

/** Those that it gave, alone: other families of its holder go on. */
async function voidTokensOf(tx: Tx, family: PresentedFamily, reason: string): Promise<void> {
  const { id, tenant_id: tenantId } = family;
  await revokeTokensOf(tx, { tenantId, subject: `refresh-family:${id}` }, reason);
  await tellRevoked(tx, tenantId);
}

/** RFC 7009: whoever holds a token may end it. An unknown token, or one that has ended, is no fault. Throws RATE_LIMITED. */
export async function revokeToken(
  { database, limits }: Pick<TokenDeps, "database" | "limits">,
  payload: PayloadOf<Revoke>,
): Promise<ReplyInputOf<Revoke>> {
  const nobody = { usedBy: Buffer.alloc(32), retrySeconds: 0 };
  const limited = await database.transaction("system", async (tx) => {
    const family = await lockFamily(tx, storedHash(payload.token_sha256), nobody);
    const [refusal] = await limits.count(tx, tokenRequests.revokeToken, [outcomeOf(payload, family)]);
    if (refusal !== undefined) return refusal;
    if (family === undefined || (await endFamily(tx, family)) === 0) return undefined;
    const actor = `${family.holder.kind}:${family.principal_id}`;
    await auditFamily(tx, { tenantId: family.tenant_id, id: family.id, actor }, "revoked", {
      reason: "asked",
    });
    await voidTokensOf(tx, family, "refresh-token-revoked");
    return undefined;
  });
  if (limited !== undefined) throw limited;
  return {};
}
