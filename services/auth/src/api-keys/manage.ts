import type { RequestContext } from "@muster/broker/broker";
import { apiKeyView } from "@muster/contracts/accounts";
import type { ApiKeyView } from "@muster/contracts/accounts";
import type { authRequests } from "@muster/contracts/auth";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import type { Database, Tx } from "@muster/database/database";
import { refuse } from "../accounts/manage.ts";
import { grantFaults, mayChange, mayHoldKeyOf, scopesOf } from "../accounts/rules.ts";
import { findAccount } from "../accounts/store.ts";
import type { Account } from "../accounts/store.ts";
import { recordAudit } from "../audit/store.ts";
import { callerOf, changerOf, scopeOf } from "../caller.ts";
import type { Caller } from "../caller.ts";
import { once } from "../creations.ts";
import { pageOf, placeOf } from "@muster/database/page";
import { tellRevoked } from "../revocations/tell.ts";
import { storable } from "../text.ts";
import { newApiKey } from "./key.ts";
import { apiKeyViewOf, countWorking, findKey, insertKey, listKeys, revokeKey } from "./store-manage.ts";
import type { ApiKeyRow, Holder } from "./store-manage.ts";

type Requests = typeof authRequests;
type Wanted = PayloadOf<Requests["createApiKey"]>["api_key"];

/** Keys of one account that work at once: enough to change one for another without a gap, anywhere that it is used. */
export const workingKeysMax = 20;

/**
 * Throws ACCOUNT_NOT_FOUND, ACCOUNT_DISABLED, ACCOUNT_EXTERNAL, API_KEYS_TOO_MANY, FORBIDDEN for more than the caller has,
 * IDEMPOTENCY_KEY_REUSED.
 */
export async function createApiKey(
  database: Pick<Database, "transaction">,
  { api_key: wanted, idempotency_key: key }: PayloadOf<Requests["createApiKey"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["createApiKey"]>> {
  return await database.transaction(scopeOf(context), async (tx) => {
    const caller = await changerOf(tx, context, "member");
    let secret: string | null = null;
    const what = { kind: "api-key", key, requested: wanted, answer: apiKeyView } as const;
    const { answer, replayed } = await once(tx, caller, what, async () => {
      const made = await make(tx, caller, wanted);
      secret = made.key;
      return made.view;
    });
    return { api_key: answer, secret, replayed };
  });
}

async function make(tx: Tx, caller: Caller, wanted: Wanted): Promise<{ key: string; view: ApiKeyView }> {
  const holder = await holderOf(tx, caller, wanted.principal_id ?? caller.principalId);
  refuse(grantFaults(caller, { role: wanted.role_max, permissions: wanted.permissions }));
  const expiresAt = wanted.expires_at === undefined ? null : new Date(wanted.expires_at);
  if (expiresAt !== null && expiresAt.getTime() <= Date.now()) {
    const details = [{ path: "expires_at", message: "must be in the future" }];
    throw new MusterError("VALIDATION_FAILED", undefined, { details });
  }
  // Under the tenant's lock: nobody else makes one meanwhile.
  if ((await countWorking(tx, caller.tenantId, holder.id)) >= workingKeysMax) {
    throw new MusterError("API_KEYS_TOO_MANY");
  }
  const { key, prefix, hash } = newApiKey();
  const scopes = scopesOf(caller, holder, wanted);
  const row = await insertKey(tx, {
    id: uuidv7(),
    tenantId: caller.tenantId,
    principalId: holder.id,
    prefix,
    hash,
    name: storable(wanted.name),
    roleMax: scopes.role_max,
    permissions: scopes.permissions,
    expiresAt,
  });
  await audit(tx, caller, row, "created", {
    prefix,
    principal: `${holder.kind}:${holder.id}`,
    role_max: scopes.role_max,
  });
  return { key, view: apiKeyViewOf(row) };
}

async function holderOf(tx: Tx, caller: Caller, id: string): Promise<Account> {
  const holder = await findAccount(tx, caller.tenantId, id, null);
  // Below admin, others are not seen, and so not told from those who are not there.
  if (holder === undefined || (caller.role === "member" && holder.id !== caller.principalId)) {
    throw new MusterError("ACCOUNT_NOT_FOUND");
  }
  if (!mayHoldKeyOf(caller, holder)) {
    refuse([{ path: "principal_id", message: "needs a role above this account's" }]);
  }
  if (holder.disabled_at !== null) throw new MusterError("ACCOUNT_DISABLED");
  // A key would outlive what the issuer says of its holder.
  if (holder.external !== null) throw new MusterError("ACCOUNT_EXTERNAL");
  return holder;
}

/** Below admin, one's own. */
const seenBy = (caller: Caller): Holder => ({
  tenantId: caller.tenantId,
  principalId: caller.role === "member" ? caller.principalId : null,
});

export async function listApiKeys(
  database: Pick<Database, "transaction">,
  { principal_id, limit, cursor }: PayloadOf<Requests["listApiKeys"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["listApiKeys"]>> {
  return await database.transaction(
    scopeOf(context),
    async (tx) => {
      const caller = await callerOf(tx, context, "member");
      const before = placeOf(cursor);
      const seen = seenBy(caller);
      const wanted = principal_id ?? null;
      if (seen.principalId !== null && wanted !== null && wanted !== seen.principalId) {
        return { items: [], next_cursor: null };
      }
      const holder = { ...seen, principalId: wanted ?? seen.principalId };
      return pageOf(await listKeys(tx, holder, { before, limit: limit + 1 }), limit, apiKeyViewOf);
    },
    { readOnly: true },
  );
}

export async function getApiKey(
  database: Pick<Database, "transaction">,
  id: string,
  context: RequestContext,
): Promise<ApiKeyView> {
  return await database.transaction(
    scopeOf(context),
    async (tx) => apiKeyViewOf(await found(tx, await callerOf(tx, context, "member"), id)),
    { readOnly: true },
  );
}

/** Throws API_KEY_NOT_FOUND; FORBIDDEN for a key of somebody above. */
export async function revokeApiKey(
  database: Pick<Database, "transaction">,
  id: string,
  context: RequestContext,
): Promise<ApiKeyView> {
  return await database.transaction(scopeOf(context), async (tx) => {
    const caller = await changerOf(tx, context, "member");
    const row = await found(tx, caller, id);
    const holder = await findAccount(tx, caller.tenantId, row.principal_id, null);
    const own = row.principal_id === caller.principalId;
    if (!own && holder !== undefined && !mayChange(caller, holder.role)) {
      refuse([{ path: "role", message: `only an ${holder.role} can revoke a key of an ${holder.role}` }]);
    }
    if (row.revoked_at !== null) return apiKeyViewOf(row);
    const revoked = await revokeKey(tx, caller.tenantId, id);
    await audit(tx, caller, revoked, "revoked", { prefix: row.prefix });
    await tellRevoked(tx, caller.tenantId, context);
    return apiKeyViewOf(revoked);
  });
}

async function found(tx: Tx, caller: Caller, id: string): Promise<ApiKeyRow> {
  const row = await findKey(tx, seenBy(caller), id);
  if (row === undefined) throw new MusterError("API_KEY_NOT_FOUND");
  return row;
}

function audit(
  tx: Tx,
  caller: Caller,
  row: ApiKeyRow,
  what: "created" | "revoked",
  details: Record<string, string>,
): Promise<void> {
  return recordAudit(tx, {
    tenantId: caller.tenantId,
    actor: caller.subject,
    action: `api-key.${what}`,
    subject: `api-key:${row.id}`,
    details,
  });
}
