import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import type { Principal } from "@muster/contracts/principal";
import { tokenRequests } from "@muster/contracts/tokens";
import type { Tx } from "@muster/database/database";
import { fits, outcomeOf } from "../api-keys/exchange.ts";
import type { ExchangeDeps } from "../api-keys/exchange.ts";
import { grantOf } from "../api-keys/grant.ts";
import type { FoundKey } from "../api-keys/store.ts";
import { auditFamily } from "./audit.ts";
import { firstToken } from "./refresh-token.ts";
import { narrowed, scopeFaults, scopeOf, scopeText } from "./scope.ts";
import type { Scope } from "./scope.ts";
import { insertFamily } from "./store.ts";
import type { RefreshLife } from "./store.ts";

type Issue = (typeof tokenRequests)["issueToken"];

export interface TokenDeps extends ExchangeDeps {
  readonly refreshLife: RefreshLife;
}

/**
 * By an API key, or by client credentials: a service account's id and an API key of it. Unknown, wrong, expired and
 * revoked ones, and another account's, get the same answer after the same work. Throws INVALID_CLIENT,
 * INVALID_OR_MISSING_BEARER_TOKEN, INVALID_SCOPE, RATE_LIMITED.
 */
export async function issueToken(
  { database, keys, limits, signing, mint, now, refreshLife }: TokenDeps,
  payload: PayloadOf<Issue>,
): Promise<ReplyInputOf<Issue>> {
  const { scope, offline } = scopeOf(payload.scope);
  const atMs = now();
  const made = await database.transaction("system", async (tx) => {
    const [row] = await keys.findByPrefixes(tx, [payload.prefix]);
    const holds = fits(row, payload.key_sha256) && isClient(row, payload.client_id) ? row : undefined;
    const [limited] = await limits.count(tx, tokenRequests.issueToken, [outcomeOf(payload, { row, holds })]);
    // Refusals are answered and not thrown: what was counted is kept.
    if (limited !== undefined) return limited;
    if (holds === undefined) {
      return new MusterError(
        payload.client_id === undefined ? "INVALID_OR_MISSING_BEARER_TOKEN" : "INVALID_CLIENT",
      );
    }
    if (holds.unmarked) await keys.markUsed(tx, [holds.id]);
    const who = grantOf(holds);
    const beyond = scopeRefusal(who, scope);
    if (beyond !== undefined) return beyond;
    const principal = narrowed(who, scope);
    const family = offline ? await beginFamily(tx, holds, scope, refreshLife) : undefined;
    return { row: holds, principal, family, kid: await signing.activeKid(tx) };
  });
  if (made instanceof MusterError) throw made;
  const { row, principal, family, kid } = made;
  const id = [row.id, ...(scope ?? []), ...(family === undefined ? [] : [family.id])].join(" ");
  const { token, expiresInSeconds } = await mint(id, principal, row.expiresAt, {
    key: await signing.keyOf(kid),
    atMs,
    origin: {
      asOf: row.asOf,
      via: [`api-key:${row.id}`, ...(family === undefined ? [] : [`refresh-family:${family.id}`])],
    },
  });
  return {
    access_token: token,
    expires_in_seconds: expiresInSeconds,
    principal,
    scope: scopeText(principal, offline),
    refresh_token: family?.token ?? null,
    refresh_expires_at: family?.endsAt.toISOString() ?? null,
  };
}

function isClient(row: FoundKey, clientId: string | undefined): boolean {
  return clientId === undefined || (row.kind === "service-account" && row.principalId === clientId);
}

/** INVALID_SCOPE naming what is beyond. */
export function scopeRefusal(who: Principal, scope: Scope): MusterError | undefined {
  const details = scopeFaults(who, scope);
  return details.length > 0 ? new MusterError("INVALID_SCOPE", undefined, { details }) : undefined;
}

async function beginFamily(
  tx: Tx,
  key: FoundKey,
  scope: Scope,
  life: RefreshLife,
): Promise<{ id: string; token: string; endsAt: Date }> {
  const { tenantId, principalId } = key;
  const id = uuidv7();
  const actor = `${key.kind}:${principalId}`;
  const { token, hash } = firstToken();
  const family = { id, tenantId, principalId, apiKeyId: key.id, notAfter: key.expiresAt, scope };
  const { endsAt, displaced } = await insertFamily(tx, family, hash, life);
  for (const one of displaced) {
    await auditFamily(tx, { tenantId, id: one, actor: "auth" }, "revoked", { reason: "displaced", by: id });
  }
  await auditFamily(tx, { tenantId, id, actor }, "issued", {
    api_key: key.prefix,
    ...(scope === null ? {} : { scope: scope.join(" ") }),
  });
  return { id, token, endsAt };
}
