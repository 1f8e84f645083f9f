import { uuidv7 } from "@muster/contracts/ids";
import type { Database, Tx } from "@muster/database/database";
import { newApiKey } from "../api-keys/key.ts";
import { apiKeyStore } from "../api-keys/store.ts";
import { recordAudit } from "../audit/store.ts";
import { tenantStore } from "./store.ts";

export interface FirstOwner {
  readonly tenant_id: string;
  /** The key only where it was made now: it is kept nowhere. */
  readonly owner: { readonly email: string; readonly api_key: string | null };
}

const actor = "bootstrap";

/**
 * The tenant, its owner and a key of the owner, each made where it is missing; `newKey` makes one more key.
 * Any number at once make one.
 */
export async function ensureFirstOwner(
  database: Database,
  o: { tenantId: string; email: string; newKey: boolean },
): Promise<FirstOwner> {
  const { tenantId } = o;
  const email = o.email.toLowerCase();
  const tenants = tenantStore(database);
  const keys = apiKeyStore(database);
  return await database.transaction("system", async (tx) => {
    await tx.query("SELECT pg_advisory_xact_lock(hashtextextended('muster.auth.first-owner', 0))");
    if (await tenants.addTenant(tx, tenantId)) {
      await recordAudit(tx, { tenantId, actor, action: "tenant.created", subject: `tenant:${tenantId}` });
    }
    const ownerId = await ensureOwner(tx);
    const wanted = o.newKey || !(await keys.hasUsable(tx, ownerId));
    return { tenant_id: tenantId, owner: { email, api_key: wanted ? await addKey(tx, ownerId) : null } };
  });

  async function ensureOwner(tx: Tx): Promise<string> {
    const known = await tenants.findUser(tx, tenantId, email);
    if (known !== undefined) return known.id;
    const id = uuidv7();
    await tenants.addUser(tx, { id, tenantId, email, roles: ["owner"] });
    await recordAudit(tx, {
      tenantId,
      actor,
      action: "user.created",
      subject: `user:${id}`,
      details: { email },
    });
    return id;
  }

  async function addKey(tx: Tx, ownerId: string): Promise<string> {
    const { key, prefix, hash } = newApiKey();
    const id = uuidv7();
    await keys.insert(tx, {
      id,
      tenant_id: tenantId,
      principal_id: ownerId,
      prefix,
      hash,
      name: "first owner",
      expires_at: null,
    });
    await recordAudit(tx, {
      tenantId,
      actor,
      action: "api-key.created",
      subject: `api-key:${id}`,
      details: { prefix, principal: `user:${ownerId}` },
    });
    return key;
  }
}
