import { apiKeyPattern, authRequests } from "@muster/contracts/auth";
import type { PayloadInputOf } from "@muster/contracts/define";
import { uuidv7 } from "@muster/contracts/ids";
import type { Role } from "@muster/contracts/principal";
import { expect } from "chai";
import { codeOf, makeKey, setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

const r = authRequests;

/** A tenant of its own with its owner's token. */
async function tenantOf(s: Setup, tenantId: string) {
  const { access_token: owner, principal } = await s.exchange(await makeKey(s.database, tenantId));
  const ownerId = principal.subject.slice("user:".length);
  const tokenOf = async (id: string, asker = owner): Promise<string> => {
    const made = await s.as(asker, r.createApiKey, { api_key: { name: "k", principal_id: id } });
    return (await s.exchange(made.secret ?? "")).access_token;
  };
  const userOf = async (role: Role, permissions: string[] = []) => {
    const email = `${role}-${uuidv7()}@example.org`;
    const { user } = await s.as(owner, r.createUser, { user: { email, role, permissions } });
    return user;
  };
  const audited = async (): Promise<string[]> => {
    const rows = await s.database.transaction({ tenants: [tenantId] }, (tx) =>
      tx.query<{ action: string }>("SELECT action FROM audit_events ORDER BY at, id"),
    );
    return rows.map(({ action }) => action);
  };
  return { owner, ownerId, tokenOf, userOf, audited };
}

describe("accounts and their keys", function () {
  this.timeout(60_000);
  let s: Setup;
  before(async () => (s = await setup()));
  after(() => s.close());

  it("show a key's secret once, and it works until it is revoked", async () => {
    const t = await tenantOf(s, "once");
    const created = await s.as(t.owner, r.createApiKey, { api_key: { name: "ci" } });
    expect(created.secret).to.match(apiKeyPattern);
    const { principal } = await s.exchange(created.secret ?? "");
    expect(principal).to.deep.include({ tenant_id: "once", roles: ["owner"] });
    const { id } = created.api_key;
    const shown = await s.as(t.owner, r.getApiKey, { id });
    const listed = await s.as(t.owner, r.listApiKeys, { limit: 200 });
    expect(JSON.stringify([shown, listed])).to.not.include((created.secret ?? "").slice(14));
    const revoked = await s.as(t.owner, r.revokeApiKey, { id });
    expect(revoked.revoked_at).to.not.equal(null);
    expect(await s.as(t.owner, r.revokeApiKey, { id })).to.deep.equal(revoked);
    expect(await codeOf(s.exchange(created.secret ?? ""))).to.equal("INVALID_OR_MISSING_BEARER_TOKEN");
    expect((await t.audited()).slice(-2)).to.deep.equal(["api-key.created", "api-key.revoked"]);
  });

  it("make one of twenty creations at once under one key, and name what differs in another", async () => {
    const t = await tenantOf(s, "idempotent");
    const idempotency_key = uuidv7();
    const asked = { api_key: { name: "twenty", permissions: [] }, idempotency_key };
    const made = await Promise.all(Array.from({ length: 20 }, () => s.as(t.owner, r.createApiKey, asked)));
    expect(new Set(made.map(({ api_key }) => api_key.id))).to.have.length(1);
    expect(made.filter(({ secret }) => secret !== null)).to.have.length(1);
    expect(made.filter(({ replayed }) => !replayed)).to.have.length(1);
    const other = { ...asked, api_key: { ...asked.api_key, name: "other" } };
    expect(await codeOf(s.as(t.owner, r.createApiKey, other))).to.equal("IDEMPOTENCY_KEY_REUSED");
    const admin = await t.userOf("admin");
    const theirs = await s.as(await t.tokenOf(admin.id), r.createApiKey, other);
    expect(theirs.replayed, "another principal's key is another key").to.equal(false);
    const user = { user: { email: "Same@Example.org" }, idempotency_key };
    const first = await s.as(t.owner, r.createUser, user);
    await s.as(t.owner, r.disableUser, { id: first.user.id });
    expect(await s.as(t.owner, r.createUser, user)).to.deep.equal({ ...first, replayed: true });
    expect(await codeOf(s.as(t.owner, r.createUser, { user: { email: "same@example.org" } }))).to.equal(
      "USER_ALREADY_EXISTS",
    );
  });

  it("lead through every entry once by cursors, newest first", async () => {
    const t = await tenantOf(s, "listed");
    const made: string[] = [];
    for (let i = 0; i < 7; i++) {
      const asked = { service_account: { name: `robot ${i}` } };
      made.unshift((await s.as(t.owner, r.createServiceAccount, asked)).service_account.id);
    }
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const page: PayloadInputOf<typeof r.listServiceAccounts> = { limit: 3, cursor };
      const { items, next_cursor } = await s.as(t.owner, r.listServiceAccounts, page);
      seen.push(...items.map(({ id }) => id));
      cursor = next_cursor ?? undefined;
    } while (cursor !== undefined);
    expect(seen).to.deep.equal(made);
    const lists = [r.listServiceAccounts, r.listUsers, r.listApiKeys, r.listTenants] as const;
    for (const list of lists) {
      expect(await codeOf(s.as(t.owner, list, { limit: 3, cursor: "other" }))).to.equal("CURSOR_INVALID");
    }
  });

  it("give nobody more than the giver has", async () => {
    const t = await tenantOf(s, "ranks");
    const reviewer = await t.userOf("admin", ["approvals.review.nonprod"]);
    const admin = await t.tokenOf(reviewer.id);
    const member = await t.userOf("member");
    const user = (more: object) => ({ user: { email: `${uuidv7()}@example.org`, ...more } });
    const refused = [
      () => s.as(admin, r.createUser, user({ role: "owner" })),
      () => s.as(admin, r.createUser, user({ permissions: ["secrets.read"] })),
      () => s.as(admin, r.createServiceAccount, { service_account: { name: "x", role: "owner" } }),
      () => s.as(admin, r.updateUser, { id: reviewer.id, change: { role: "owner" } }),
      () => s.as(admin, r.updateUser, { id: reviewer.id, change: { permissions: ["secrets.read"] } }),
      () => s.as(admin, r.updateUser, { id: t.ownerId, change: { role: "member" } }),
      () => s.as(admin, r.disableUser, { id: t.ownerId }),
      () => s.as(admin, r.createApiKey, { api_key: { name: "x", principal_id: t.ownerId } }),
      () => s.as(admin, r.createApiKey, { api_key: { name: "x", role_max: "owner" } }),
    ];
    for (const ask of refused) expect(await codeOf(ask())).to.equal("FORBIDDEN");
    const given = { role: "admin" as const, permissions: ["approvals.review.nonprod"] };
    const changed = await s.as(admin, r.updateUser, { id: member.id, change: given });
    expect(changed).to.deep.include(given);
  });

  it("never let a key outgrow the one who made it, whatever becomes of its holder", async () => {
    const t = await tenantOf(s, "outgrow");
    const admin = await t.tokenOf((await t.userOf("admin")).id);
    const user = await t.userOf("member");
    const made = await s.as(admin, r.createApiKey, { api_key: { name: "kept", principal_id: user.id } });
    await s.as(t.owner, r.updateUser, {
      id: user.id,
      change: { role: "owner", permissions: ["secrets.read"] },
    });
    const { principal } = await s.exchange(made.secret ?? "");
    expect(principal).to.deep.include({ roles: ["member"], permissions: [] });
    const narrow = await s.as(t.owner, r.createApiKey, { api_key: { name: "n", role_max: "member" } });
    const token = (await s.exchange(narrow.secret ?? "")).access_token;
    const again = await s.as(token, r.createApiKey, { api_key: { name: "wider" } });
    expect(again.api_key.role_max).to.equal("member");
    expect(await codeOf(s.as(token, r.listUsers, { limit: 1 }))).to.equal("FORBIDDEN");
  });

  it("show a member his own keys only", async () => {
    const t = await tenantOf(s, "own");
    const member = await t.userOf("member");
    const token = await t.tokenOf(member.id);
    const { items } = await s.as(token, r.listApiKeys, { limit: 50 });
    expect(items.map(({ principal_id }) => principal_id)).to.deep.equal([member.id]);
    const all = await s.as(t.owner, r.listApiKeys, { limit: 50 });
    const others = all.items.find(({ principal_id }) => principal_id === t.ownerId);
    const id = others?.id ?? "";
    expect(await codeOf(s.as(token, r.getApiKey, { id }))).to.equal("API_KEY_NOT_FOUND");
    expect(await codeOf(s.as(token, r.revokeApiKey, { id }))).to.equal("API_KEY_NOT_FOUND");
    const strange = { api_key: { name: "x", principal_id: t.ownerId } };
    expect(await codeOf(s.as(token, r.createApiKey, strange))).to.equal("ACCOUNT_NOT_FOUND");
  });

  it("keep a tenant's last owner, also against two who demote each other at once", async () => {
    const t = await tenantOf(s, "owners");
    const demote = { role: "admin" } as const;
    const first = { id: t.ownerId, change: demote };
    expect(await codeOf(s.as(t.owner, r.updateUser, first))).to.equal("LAST_OWNER");
    expect(await codeOf(s.as(t.owner, r.disableUser, { id: t.ownerId }))).to.equal("LAST_OWNER");
    const second = await t.userOf("admin");
    const other = await t.tokenOf(second.id);
    await s.as(t.owner, r.updateUser, { id: second.id, change: { role: "owner" } });
    const otherOwner = await s.exchange(
      (
        await s.as(
          await s.sign({ tenantId: "owners", subject: `user:${second.id}`, role: "owner" }),
          r.createApiKey,
          {
            api_key: { name: "as owner" },
          },
        )
      ).secret ?? "",
    );
    expect(other).to.not.equal(otherOwner.access_token);
    const codes = await Promise.all([
      codeOf(s.as(t.owner, r.updateUser, { id: second.id, change: demote })),
      codeOf(s.as(otherOwner.access_token, r.updateUser, first)),
    ]);
    expect(codes.sort()).to.deep.equal(["FORBIDDEN", "none"]);
    const owners = await s.database.transaction({ tenants: ["owners"] }, (tx) =>
      tx.query("SELECT 1 FROM principals WHERE 'owner' = ANY (roles) AND disabled_at IS NULL"),
    );
    expect(owners).to.have.length(1);
  });

  it("end every key of an account that is disabled, at once", async () => {
    const t = await tenantOf(s, "disabled");
    const { service_account } = await s.as(t.owner, r.createServiceAccount, {
      service_account: { name: "robot", role: "admin" },
    });
    const { id } = service_account;
    const key = await s.as(t.owner, r.createApiKey, { api_key: { name: "k", principal_id: id } });
    const token = (await s.exchange(key.secret ?? "")).access_token;
    expect(await codeOf(s.as(token, r.listUsers, { limit: 1 }))).to.equal("none");
    const disabled = await s.as(t.owner, r.disableServiceAccount, { id });
    expect(await s.as(t.owner, r.disableServiceAccount, { id })).to.deep.equal(disabled);
    const refused = "INVALID_OR_MISSING_BEARER_TOKEN";
    expect(await codeOf(s.exchange(key.secret ?? ""))).to.equal(refused);
    expect(await codeOf(s.as(token, r.listUsers, { limit: 1 }))).to.equal(refused);
    const change = { id, change: { name: "again" } };
    expect(await codeOf(s.as(t.owner, r.updateServiceAccount, change))).to.equal("ACCOUNT_DISABLED");
    const more = { api_key: { name: "k", principal_id: id } };
    expect(await codeOf(s.as(t.owner, r.createApiKey, more))).to.equal("ACCOUNT_DISABLED");
  });

  it("make a tenant for the operator's owner alone, with a key of its owner", async () => {
    const operator = await tenantOf(s, "default");
    const other = await tenantOf(s, "customer");
    const tenant = { tenant_id: "fresh", owner_email: "First@example.org" };
    const asked = { tenant, idempotency_key: uuidv7() };
    expect(await codeOf(s.as(other.owner, r.createTenant, asked))).to.equal("FORBIDDEN");
    const made = await s.as(operator.owner, r.createTenant, asked);
    expect(made.owner).to.deep.include({ email: "first@example.org", role: "owner" });
    const { principal, access_token } = await s.exchange(made.secret ?? "");
    expect(principal.tenant_id).to.equal("fresh");
    const { items } = await s.as(access_token, r.listTenants, { limit: 50 });
    expect(items.map(({ tenant_id }) => tenant_id)).to.deep.equal(["fresh"]);
    const again = await s.as(operator.owner, r.createTenant, asked);
    expect(again).to.deep.equal({ ...made, secret: null, replayed: true });
    const taken = (tenant_id: string) =>
      codeOf(s.as(operator.owner, r.createTenant, { tenant: { ...tenant, tenant_id } }));
    expect(await taken("customer")).to.equal("TENANT_ALREADY_EXISTS");
    for (const shadow of ["shadow-tenant", "shadow-1"]) {
      expect(await taken(shadow), shadow).to.equal("VALIDATION_FAILED");
      expect(await codeOf(makeKey(s.database, shadow)), shadow).to.include("tenants_no_shadow");
    }
  });

  it("audit every change with who made it", async () => {
    const t = await tenantOf(s, "told");
    const user = await t.userOf("member");
    await s.as(t.owner, r.updateUser, { id: user.id, change: { role: "admin" } });
    await s.as(t.owner, r.disableUser, { id: user.id });
    const rows = await s.database.transaction({ tenants: ["told"] }, (tx) =>
      tx.query("SELECT actor, action, details FROM audit_events WHERE subject = $1 ORDER BY id", [
        `user:${user.id}`,
      ]),
    );
    const actor = `user:${t.ownerId}`;
    expect(rows).to.deep.equal([
      { actor, action: "user.created", details: { email: user.email, role: "member", permissions: "" } },
      { actor, action: "user.changed", details: { role: "admin" } },
      { actor, action: "user.disabled", details: {} },
    ]);
  });
});
