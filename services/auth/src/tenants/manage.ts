import type { RequestContext } from "@muster/broker/broker";
import { apiKeyView, tenantView, userView } from "@muster/contracts/accounts";
import type { TenantView } from "@muster/contracts/accounts";
import type { authRequests } from "@muster/contracts/auth";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { isShadowTenant, shadowTenantPrefix } from "@muster/contracts/principal";
import type { Database, Tx } from "@muster/database/database";
import { z } from "zod";
import { insertAccount, userViewOf } from "../accounts/store.ts";
import { newApiKey } from "../api-keys/key.ts";
import { apiKeyViewOf, insertKey } from "../api-keys/store-manage.ts";
import { recordAudit } from "../audit/store.ts";
import { callerOf, changerOf, refuseUnlessOperator, scopeOf } from "../caller.ts";
import type { Caller } from "../caller.ts";
import { once } from "../creations.ts";
import { listTenantRows, insertTenant, tenantViewOf } from "./store.ts";

type Requests = typeof authRequests;
type Wanted = PayloadOf<Requests["createTenant"]>["tenant"];

export interface TenantParts {
  readonly database: Pick<Database, "transaction">;
  /** Its owners may make tenants. */
  readonly operatorTenantId: string;
}

const answer = z.object({ tenant: tenantView, owner: userView, api_key: apiKeyView });

/** Throws TENANT_ALREADY_EXISTS, IDEMPOTENCY_KEY_REUSED; FORBIDDEN but to owners of the operator's tenant. */
export async function createTenant(
  { database, operatorTenantId }: TenantParts,
  { tenant: wanted, idempotency_key: key }: PayloadOf<Requests["createTenant"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["createTenant"]>> {
  // Across tenants: every statement below names the tenant that it means.
  return await database.transaction("system", async (tx) => {
    const caller = await changerOf(tx, context, "owner");
    refuseUnlessOperator(caller, operatorTenantId);
    if (isShadowTenant(wanted.tenant_id)) {
      const message = `what begins with ${shadowTenantPrefix} is kept for shadow mode; choose another`;
      const details = [{ path: "tenant_id", message }];
      throw new MusterError("VALIDATION_FAILED", undefined, { details });
    }
    let secret: string | null = null;
    const what = { kind: "tenant", key, requested: wanted, answer } as const;
    const made = await once(tx, caller, what, async () => {
      const { key: shown, ...rest } = await make(tx, caller, wanted);
      secret = shown;
      return rest;
    });
    return { ...made.answer, secret, replayed: made.replayed };
  });
}

async function make(
  tx: Tx,
  caller: Caller,
  wanted: Wanted,
): Promise<z.output<typeof answer> & { key: string }> {
  const tenantId = wanted.tenant_id;
  const tenant = await insertTenant(tx, tenantId);
  if (tenant === undefined) throw new MusterError("TENANT_ALREADY_EXISTS");
  const email = wanted.owner_email.toLowerCase();
  const owner = await insertAccount(tx, {
    ...{ id: uuidv7(), tenantId, kind: "user", email, name: email, role: "owner", permissions: [] },
  });
  if (owner === undefined) throw new Error("a new tenant has a user already");
  const { key, prefix, hash } = newApiKey();
  const row = await insertKey(tx, {
    ...{ id: uuidv7(), tenantId, principalId: owner.id, prefix, hash, name: "first owner" },
    ...{ roleMax: null, permissions: null, expiresAt: null },
  });
  const subjects = [
    ["tenant.created", `tenant:${tenantId}`, {}],
    ["user.created", `user:${owner.id}`, { email, role: "owner" }],
    ["api-key.created", `api-key:${row.id}`, { prefix, principal: `user:${owner.id}` }],
  ] as const;
  for (const [action, subject, details] of subjects) {
    await recordAudit(tx, { tenantId, actor: caller.subject, action, subject, details });
  }
  // The operator's own record of what was done in its name.
  await recordAudit(tx, {
    tenantId: caller.tenantId,
    actor: caller.subject,
    action: "tenant.created",
    subject: `tenant:${tenantId}`,
  });
  return { tenant: tenantViewOf(tenant), owner: userViewOf(owner), api_key: apiKeyViewOf(row), key };
}

/** Everybody belongs to one tenant, so this is a list of one; its shape leaves room. */
export async function listTenants(
  database: Pick<Database, "transaction">,
  { cursor }: PayloadOf<Requests["listTenants"]>,
  context: RequestContext,
): Promise<{ items: TenantView[]; next_cursor: null }> {
  return await database.transaction(
    scopeOf(context),
    async (tx) => {
      const { tenantId } = await callerOf(tx, context, "member");
      if (cursor !== undefined) throw new MusterError("CURSOR_INVALID");
      return { items: (await listTenantRows(tx, tenantId)).map(tenantViewOf), next_cursor: null };
    },
    { readOnly: true },
  );
}
