import { authRequests } from "@muster/contracts/auth";
import type { IssuerAlgorithm } from "@muster/contracts/issuers";
import { uuidv7 } from "@muster/contracts/ids";
import { expect } from "chai";
import { decodeJwt } from "jose";
import { issuersMax } from "../src/issuers/manage.ts";
import { setupExternal } from "./external.ts";
import type { External } from "./external.ts";
import { openOutside, outsideKey } from "./outside.ts";
import { codeOf, makeKey } from "./setup.ts";

const r = authRequests;

async function audited(s: External, tenantId: string, like: string) {
  return await s.database.transaction({ tenants: [tenantId] }, (tx) =>
    tx.query<{ actor: string; action: string; subject: string; details: Record<string, string> }>(
      "SELECT actor, action, subject, details FROM audit_events WHERE action LIKE $1 AND actor <> 'bootstrap' ORDER BY at, id",
      [like],
    ),
  );
}

describe("tokens of issuers outside", function () {
  this.timeout(60_000);
  let s: External;
  before(async () => (s = await setupExternal()));
  after(() => s.close());

  const shapes = {
    "Keycloak's, RS256, with roles of the realm": {
      path: "/realms/shop",
      alg: "RS256",
      named: true,
      trust: {
        roles_claim: "realm_access.roles",
        role_map: [
          { value: "muster-admin", role: "admin" as const, permissions: ["approvals.review.prod"] },
          { value: "muster-reader", role: "member" as const, permissions: ["secrets.read"] },
        ],
      },
      type: "urn:ietf:params:oauth:token-type:access_token",
      claims: {
        aud: ["muster", "account"],
        typ: "Bearer",
        azp: "console",
        realm_access: { roles: ["offline_access", "muster-reader", "muster-admin", "uma_authorization"] },
        preferred_username: "ada",
      },
      rank: { roles: ["admin"], permissions: ["approvals.review.prod", "secrets.read"] },
      name: "ada",
    },
    "Entra's, RS256, with app roles and keys that name no algorithm": {
      path: "/7f0e9c62-5c3a-4f0e-9a55-3b1a64e6c111/v2.0",
      alg: "RS256",
      named: false,
      trust: {
        jwks: true,
        roles_claim: "roles",
        role_map: [{ value: "Muster.Operate", role: "member" as const }],
      },
      type: "urn:ietf:params:oauth:token-type:id_token",
      claims: {
        aud: "muster",
        ver: "2.0",
        tid: "7f0e9c62-5c3a-4f0e-9a55-3b1a64e6c111",
        oid: "8d5c2f60-0000-4000-8000-000000000001",
        roles: ["Muster.Operate"],
        groups: Array.from({ length: 150 }, () => uuidv7()),
        name: "Grace Hopper",
      },
      rank: { roles: ["member"], permissions: [] },
      name: "Grace Hopper",
    },
    "Supabase's, ES256, with a role and the tenant in app_metadata": {
      path: "/auth/v1",
      alg: "ES256",
      named: true,
      trust: {
        audience: "authenticated",
        tenant_claim: "app_metadata.tenant",
        roles_claim: "/app_metadata/role",
        role_map: [{ value: "lead", role: "owner" as const }],
        role_max: "owner" as const,
      },
      type: "urn:ietf:params:oauth:token-type:jwt",
      claims: {
        aud: "authenticated",
        role: "authenticated",
        app_metadata: { provider: "email", tenant: "shape-2", role: "lead" },
        user_metadata: { role: "lead", tenant: "other" },
        email: "joan@example.org",
      },
      rank: { roles: ["owner"], permissions: [] },
      name: "joan@example.org",
    },
    "any other's, EdDSA, with roles under a name with dots": {
      path: "",
      alg: "EdDSA",
      named: true,
      trust: {
        roles_claim: "/https:~1~1example.org~1roles",
        role_map: [{ value: "dev", role: "member" as const }],
      },
      type: "urn:ietf:params:oauth:token-type:jwt",
      claims: { aud: "muster", "https://example.org/roles": "dev" },
      rank: { roles: ["member"], permissions: [] },
      name: "person-1",
    },
  } as const;

  Object.entries(shapes).forEach(([what, shape], i) => {
    it(`make an account and an access token: ${what}`, async () => {
      const tenantId = `shape-${i}`;
      const outside = await openOutside(shape.path);
      const key = await outsideKey("zx+/=", shape.alg satisfies IssuerAlgorithm, { unnamed: !shape.named });
      await outside.publish(await outsideKey("other", "ES256"), key);
      const { jwks, ...trust } = { jwks: undefined, ...shape.trust };
      const found = jwks === undefined ? {} : { jwks_uri: `${outside.issuer}/keys` };
      const mapped = trust.role_map.map((one) => ({ permissions: [] as string[], ...one }));
      const role_map = mapped.map((one) => ({ ...one, permissions: [...one.permissions] }));
      const { owner, id } = await s.trustedBy(tenantId, {
        ...trust,
        role_map,
        ...found,
        issuer: outside.issuer,
      });
      const claims = s.claims({ iss: outside.issuer, roles: undefined, ...shape.claims });
      const given = await s.take(await outside.sign(key, claims), { subject_token_type: shape.type });
      expect(given.principal).to.deep.include({ tenant_id: tenantId, ...shape.rank });
      expect(given).to.deep.include({ refresh_token: null, refresh_expires_at: null });
      const { subject } = given.principal;
      expect(decodeJwt(given.access_token)).to.deep.include({ tenant_id: tenantId, sub: subject });
      const user = await s.as(owner, r.getUser, { id: subject.slice("user:".length) });
      const external = { issuer: outside.issuer, subject: "person-1" };
      expect(user).to.deep.include({ name: shape.name, email: "", role: shape.rank.roles[0], external });
      const again = await s.take(await outside.sign(key, { ...claims, jti: uuidv7() }));
      expect(again.principal, "the same account").to.deep.equal(given.principal);
      const events = await audited(s, tenantId, "user.%");
      expect(events.map(({ actor, action, subject: of }) => [actor, action, of])).to.deep.equal([
        [`issuer:${id}`, "user.created", subject],
      ]);
      await outside.close();
    });
  });

  it("are one account for twenty that come first at once, and each tenant's own", async () => {
    await s.trustedBy("once-a", { tenant_claim: "org" });
    await s.trustedBy("once-b", { tenant_claim: "org" });
    // The keys are known: of those who come at first, a few may wait for them.
    await s.take(await s.token({ org: "once-a", sub: "person-0" }));
    const tokens = await Promise.all(
      Array.from({ length: 20 }, (_, i) => s.token({ org: "once-a", jti: `${i}` })),
    );
    const all = await Promise.all(tokens.map((token) => s.take(token)));
    expect(new Set(all.map(({ principal }) => principal.subject))).to.have.length(1);
    expect(await audited(s, "once-a", "user.created")).to.have.length(2);
    const other = await s.take(await s.token({ org: "once-b" }));
    expect(other.principal.tenant_id).to.equal("once-b");
    expect(other.principal.subject).to.not.equal(all[0]?.principal.subject);
  });

  it("give a token that works for as long as the issuer's, and within the scope that was asked for", async () => {
    const { owner } = await s.trustedBy("lived", { audience: "lived" });
    const short = await s.take(await s.token({ aud: "lived", exp: s.seconds() + 60, roles: ["boss"] }));
    expect(short.expires_in_seconds).to.be.at.most(60);
    expect(await codeOf(s.as(short.access_token, r.listUsers, { limit: 1 }))).to.equal("none");
    const narrow = await s.take(await s.token({ aud: "lived", roles: ["boss"] }), { scope: "member" });
    expect(narrow.principal).to.deep.include({ roles: ["member"], permissions: [] });
    for (const scope of ["owner", "secrets.write", "offline_access"]) {
      const fresh = s.token({ aud: "lived", roles: ["boss"], sub: `person-${scope}` });
      expect(await codeOf(s.take(await fresh, { scope })), scope).to.equal("INVALID_SCOPE");
    }
    const { items } = await s.as(owner, r.listUsers, { limit: 50 });
    expect(items, "what is refused makes no account").to.have.length(2);
  });

  it("follow what the newest one says, and an older one brings nothing back", async () => {
    const { owner, id } = await s.trustedBy("newest", { audience: "newest" });
    const at = (iat: number, roles: string[]) => s.token({ aud: "newest", iat: s.seconds() + iat, roles });
    const old = await at(-100, ["boss"]);
    const first = await s.take(old);
    expect(first.principal.roles).to.deep.equal(["admin"]);
    expect((await s.take(await at(-50, ["operator"]))).principal).to.deep.include({
      roles: ["member"],
      permissions: [],
    });
    expect((await s.take(old)).principal).to.deep.include({ roles: ["member"], permissions: [] });
    // By its account, or already because it was heard that the token is void.
    expect(await codeOf(s.as(first.access_token, r.listUsers, { limit: 1 })), "at once").to.be.oneOf([
      "FORBIDDEN",
      "INVALID_OR_MISSING_BEARER_TOKEN",
    ]);
    expect((await s.take(await at(-20, ["boss", "operator"]))).principal.roles).to.deep.equal(["admin"]);
    const events = await audited(s, "newest", "user.%");
    expect(events.map(({ actor, action, details }) => [actor, action, details["role"]])).to.deep.equal([
      [`issuer:${id}`, "user.created", "admin"],
      [`issuer:${id}`, "user.changed", "member"],
      [`issuer:${id}`, "user.changed", "admin"],
    ]);
    const userId = first.principal.subject.slice("user:".length);
    for (const change of [{ role: "member" as const }, { permissions: [] }]) {
      expect(await codeOf(s.as(owner, r.updateUser, { id: userId, change }))).to.equal("ACCOUNT_EXTERNAL");
    }
    expect(await s.as(owner, r.updateUser, { id: userId, change: { name: "Ada" } })).to.deep.include({
      name: "Ada",
    });
  });

  it("get nothing for an account that was disabled, though the issuer is removed and trusted anew", async () => {
    const { owner, id } = await s.trustedBy("disabled", { audience: "disabled" });
    const token = await s.token({ aud: "disabled" });
    const { principal, access_token } = await s.take(token);
    const userId = principal.subject.slice("user:".length);
    expect(await codeOf(s.as(access_token, r.listTenants, { limit: 1 }))).to.equal("none");
    await s.as(owner, r.disableUser, { id: userId });
    expect(await codeOf(s.take(token))).to.equal("INVALID_GRANT");
    expect(await codeOf(s.as(access_token, r.listTenants, { limit: 1 }))).to.equal(
      "INVALID_OR_MISSING_BEARER_TOKEN",
    );
    await s.as(owner, r.removeIssuer, { id });
    await s.trustedBy("disabled", { audience: "disabled" });
    expect(await codeOf(s.take(await s.token({ aud: "disabled" })))).to.equal("INVALID_GRANT");
    expect(await codeOf(s.take(await s.token({ aud: "disabled", sub: "person-2" })))).to.equal("none");
  });

  it("get nothing of a suspended tenant", async () => {
    await s.trustedBy("suspended", { audience: "suspended" });
    const token = await s.token({ aud: "suspended" });
    const set = (state: string) =>
      s.database.transaction("system", (tx) =>
        tx.execute("UPDATE tenants SET state = $1 WHERE tenant_id = 'suspended'", [state]),
      );
    await set("suspended");
    expect(await codeOf(s.take(token))).to.equal("INVALID_GRANT");
    await set("active");
    expect(await codeOf(s.take(token))).to.equal("none");
  });

  it("make no key, whoever asks, and no owner whom the tenant could rely on", async () => {
    const role_map = [{ value: "boss", role: "owner" as const }];
    const { owner } = await s.trustedBy("keyless", { audience: "keyless", role_map, role_max: "owner" });
    const { access_token, principal } = await s.take(await s.token({ aud: "keyless", roles: ["boss"] }));
    const principal_id = principal.subject.slice("user:".length);
    expect(await codeOf(s.as(access_token, r.createApiKey, { api_key: { name: "mine" } }))).to.equal(
      "ACCOUNT_EXTERNAL",
    );
    const theirs = { api_key: { name: "theirs", principal_id } };
    expect(await codeOf(s.as(owner, r.createApiKey, theirs))).to.be.oneOf(["ACCOUNT_EXTERNAL", "FORBIDDEN"]);
    const { items } = await s.as(owner, r.listUsers, { limit: 50 });
    const first = items.find(({ external }) => external === undefined);
    expect(await codeOf(s.as(access_token, r.disableUser, { id: first?.id ?? "" }))).to.equal("LAST_OWNER");
    expect(await codeOf(s.as(owner, r.disableUser, { id: principal_id }))).to.equal("none");
  });
});

describe("which tenant a token is for", function () {
  this.timeout(60_000);
  let s: External;
  before(async () => (s = await setupExternal()));
  after(() => s.close());

  it("is said by the claim, by the audience, or by the caller, and else by nobody", async () => {
    const audience = "shared";
    await s.trustedBy("said-a", { audience, tenant_claim: "org" });
    await s.trustedBy("said-b", { audience, tenant_claim: "org.id" });
    const tenantOf = async (claims: object, more: object = {}) =>
      (await s.take(await s.token({ aud: audience, ...claims }), more)).principal.tenant_id;
    const refused = async (claims: object, more: object = {}) => await codeOf(tenantOf(claims, more));
    expect(await tenantOf({ org: "said-a" })).to.equal("said-a");
    expect(await tenantOf({ org: { id: "said-b" } })).to.equal("said-b");
    const nobodys = [
      {},
      { org: "said-b" },
      { org: ["said-a"] },
      { org: "SAID-A" },
      { org: { id: "said-a" } },
      { team: "said-a" },
    ];
    for (const claims of nobodys)
      expect(await refused(claims), JSON.stringify(claims)).to.equal("INVALID_GRANT");
    expect(await refused({ org: "said-a" }, { tenant_id: "said-b" }), "a claim of another tenant").to.equal(
      "INVALID_GRANT",
    );
    // Another tenant that takes everybody takes nobody away from those who are named.
    await s.trustedBy("said-c", { audience });
    expect(await tenantOf({ org: "said-a" })).to.equal("said-a");
    expect(await tenantOf({})).to.equal("said-c");
    await s.trustedBy("said-d", { audience });
    expect(await refused({}), "two that take everybody").to.equal("INVALID_GRANT");
    for (const tenant_id of ["said-c", "said-d"])
      expect(await tenantOf({}, { tenant_id })).to.equal(tenant_id);
    expect(await tenantOf({ org: "said-a" })).to.equal("said-a");
    expect(await refused({ org: "said-a" }, { tenant_id: "said-b" })).to.equal("INVALID_GRANT");
    expect(await refused({}, { tenant_id: "default" })).to.equal("INVALID_GRANT");
  });

  it("is never another's by keys that only one tenant trusts", async () => {
    const mallory = await openOutside("/mallory");
    const forged = await outsideKey("k1", "ES256");
    await mallory.publish(forged);
    await s.trustedBy("honest", { audience: "both", tenant_claim: "org" });
    // The issuer of others, with keys of one's own.
    await s.trustedBy("greedy", { audience: "both", jwks_uri: `${mallory.issuer}/keys` });
    const claims = s.claims({ aud: "both", org: "honest" });
    const token = await s.outside.sign(forged, claims);
    for (const more of [{}, { tenant_id: "honest" }]) {
      expect(await codeOf(s.take(token, more))).to.equal("INVALID_GRANT");
    }
    const own = await s.take(token, { tenant_id: "greedy" });
    expect(own.principal.tenant_id, "it can cheat itself").to.equal("greedy");
    const good = await s.take(await s.token({ aud: "both", org: "honest" }));
    expect(good.principal.tenant_id).to.equal("honest");
    await mallory.close();
  });
});

describe("issuers that a tenant trusts", function () {
  this.timeout(60_000);
  let s: External;
  before(async () => (s = await setupExternal()));
  after(() => s.close());

  it("are made once under a key, listed, read, and removed, each with an audit event", async () => {
    const owner = (await s.exchange(await makeKey(s.database, "managed"))).access_token;
    const issuer = {
      issuer: "https://login.example.org/realms/acme",
      audience: "muster",
      roles_claim: "realm_access.roles",
      role_map: [{ value: "ops", role: "member" as const }],
    };
    const asked = { issuer, idempotency_key: "once" };
    const made = await Promise.all(Array.from({ length: 20 }, () => s.as(owner, r.createIssuer, asked)));
    expect(new Set(made.map((one) => one.issuer.id))).to.have.length(1);
    expect(made.filter(({ replayed }) => !replayed)).to.have.length(1);
    const view = made[0]!.issuer;
    expect(view).to.deep.include({
      ...issuer,
      role_map: [{ value: "ops", role: "member", permissions: [] }],
      jwks_uri: null,
      algorithms: ["RS256", "ES256", "EdDSA"],
      tenant_claim: null,
      role_max: "admin",
      removed_at: null,
    });
    expect(await codeOf(s.as(owner, r.createIssuer, { issuer }))).to.equal("ISSUER_ALREADY_EXISTS");
    const { id } = view;
    expect(await s.as(owner, r.getIssuer, { id })).to.deep.equal(view);
    const removed = await s.as(owner, r.removeIssuer, { id });
    expect(removed.removed_at).to.be.a("string");
    expect(await s.as(owner, r.removeIssuer, { id }), "again").to.deep.equal(removed);
    const second = await s.as(owner, r.createIssuer, { issuer });
    const { items } = await s.as(owner, r.listIssuers, { limit: 10 });
    expect(items).to.deep.equal([second.issuer, removed]);
    const events = await audited(s, "managed", "issuer.%");
    expect(events.map(({ action, subject }) => [action, subject])).to.deep.equal([
      ["issuer.created", `issuer:${id}`],
      ["issuer.removed", `issuer:${id}`],
      ["issuer.created", `issuer:${second.issuer.id}`],
    ]);
    for (let i = 1; i < issuersMax; i++) {
      await s.as(owner, r.createIssuer, { issuer: { ...issuer, audience: `muster-${i}` } });
    }
    const more = s.as(owner, r.createIssuer, { issuer: { ...issuer, audience: "one-more" } });
    expect(await codeOf(more)).to.equal("ISSUERS_TOO_MANY");
  });

  it("are refused where they cannot be right, or are where nobody outside should make us ask", async () => {
    const owner = (await s.exchange(await makeKey(s.database, "wrong"))).access_token;
    const good = {
      issuer: "https://login.example.org",
      audience: "muster",
      roles_claim: "roles",
      role_map: [{ value: "ops", role: "admin" as const }],
    };
    const places = [
      ...["http://login.example.org", "http://10.0.0.1", "https://10.0.0.1", "https://192.168.1.1:8443"],
      ...[
        "https://169.254.169.254/latest",
        "https://[fd00::1]",
        "https://[::ffff:10.0.0.1]",
        "https://0x0a000001",
      ],
      ...[
        "https://user:secret@login.example.org",
        "https://login.example.org/#a",
        "https:///",
        "https://[::1]",
      ],
    ];
    const wrong = [
      ...places.map((issuer) => ({ ...good, issuer })),
      ...places.map((jwks_uri) => ({ ...good, jwks_uri })),
      { ...good, issuer: "https://login.example.org?tenant=a" },
      { ...good, role_map: [{ value: "ops", role: "owner" as const }] },
      { ...good, role_max: "member" as const },
      { ...good, role_map: [{ value: "\ud800", role: "member" as const }] },
      {
        ...good,
        role_map: [0, 1].map((i) => ({
          value: `v${i}`,
          role: "member" as const,
          permissions: Array.from({ length: 40 }, (_, n) => `a.${"bc"[i]}${"x".repeat(n)}`),
        })),
      },
    ];
    for (const issuer of wrong) {
      expect(await codeOf(s.as(owner, r.createIssuer, { issuer })), JSON.stringify(issuer)).to.equal(
        "VALIDATION_FAILED",
      );
    }
    expect((await s.as(owner, r.listIssuers, { limit: 10 })).items).to.deep.equal([]);
  });

  it("vouch for nobody from the moment that they are removed", async () => {
    const { owner, id } = await s.trustedBy("removed", { audience: "removed" });
    const token = await s.token({ aud: "removed" });
    const { access_token } = await s.take(token);
    expect(await codeOf(s.as(access_token, r.listTenants, { limit: 1 }))).to.equal("none");
    await s.as(owner, r.removeIssuer, { id });
    expect(await codeOf(s.take(token))).to.equal("INVALID_GRANT");
    expect(await codeOf(s.as(access_token, r.listTenants, { limit: 1 }))).to.equal(
      "INVALID_OR_MISSING_BEARER_TOKEN",
    );
  });
});
