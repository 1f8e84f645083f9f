import { createHash, randomBytes } from "node:crypto";
import { authRequests } from "@muster/contracts/auth";
import type { PayloadInputOf } from "@muster/contracts/define";
import { uuidv7 } from "@muster/contracts/ids";
import { refreshTokenPattern } from "@muster/contracts/tokens";
import { eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { workingKeysMax } from "../src/api-keys/manage.ts";
import { openTokenPruner } from "../src/tokens/prune.ts";
import { familiesMax, pruneFamilies } from "../src/tokens/store.ts";
import { codeOf, context, logger, makeKey, setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

const r = authRequests;
type Ask = Omit<PayloadInputOf<typeof r.issueToken>, "prefix" | "key_sha256">;

const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");
const issue = (s: Setup, key: string, more: Ask = {}) => {
  const payload = { prefix: key.split("_")[1] ?? "", key_sha256: sha256(key), ...more };
  return s.asker.request(r.issueToken, payload, context);
};
const refresh = (s: Setup, token: string | null, o: { key?: string; scope?: string } = {}) => {
  const { key = uuidv7(), ...scope } = o;
  const payload = { token_sha256: sha256(token ?? ""), request_key: key, ...scope };
  return s.asker.request(r.refreshToken, payload, context);
};
const revoke = (s: Setup, token: string | null) =>
  s.asker.request(r.revokeToken, { token_sha256: sha256(token ?? "") }, context);

/** A tenant of its own with a service account, its key, and what was audited of families. */
async function clientOf(s: Setup, tenantId: string) {
  const owner = (await s.exchange(await makeKey(s.database, tenantId))).access_token;
  const service_account = {
    name: "robot",
    role: "admin" as const,
    permissions: ["secrets.read", "approvals.review.prod"],
  };
  const { service_account: account } = await s.as(owner, r.createServiceAccount, { service_account });
  const newKey = async (more: object = {}) =>
    await s.as(owner, r.createApiKey, { api_key: { name: "secret", principal_id: account.id, ...more } });
  const { api_key, secret } = await newKey();
  const audited = () =>
    s.database.transaction({ tenants: [tenantId] }, (tx) =>
      tx.query<{ actor: string; action: string; details: object }>(
        "SELECT actor, action, details FROM audit_events WHERE action LIKE 'refresh-family.%' ORDER BY at, id",
      ),
    );
  const set = (change: string) =>
    s.database.transaction("system", (tx) => tx.execute(`UPDATE ${change} WHERE tenant_id = '${tenantId}'`));
  const subject = `service-account:${account.id}`;
  return { owner, account, subject, api_key, secret: secret ?? "", newKey, audited, set };
}

describe("client credentials", function () {
  this.timeout(60_000);
  let s: Setup;
  before(async () => (s = await setup()));
  after(() => s.close());

  it("give what the service account has, or the part of it that the scope names", async () => {
    const { account, secret, subject } = await clientOf(s, "client");
    const whole = await issue(s, secret, { client_id: account.id });
    expect(whole.principal).to.deep.equal({
      tenant_id: "client",
      subject,
      roles: ["admin"],
      permissions: ["secrets.read", "approvals.review.prod"],
    });
    expect(whole).to.deep.include({ refresh_token: null, scope: "admin secrets.read approvals.review.prod" });
    const part = await issue(s, secret, { client_id: account.id, scope: "member secrets.read" });
    expect(part.principal).to.deep.include({ roles: ["member"], permissions: ["secrets.read"] });
    expect(await codeOf(s.as(part.access_token, r.listUsers, { limit: 1 }))).to.equal("FORBIDDEN");
    expect(await codeOf(s.as(whole.access_token, r.listUsers, { limit: 1 }))).to.equal("none");
    const none = await issue(s, secret, { client_id: account.id, scope: "secrets.read" });
    expect(none).to.deep.include({ scope: "secrets.read" });
    expect(none.principal.roles).to.deep.equal([]);
    for (const scope of ["owner", "secrets.write", "member everything"]) {
      expect(await codeOf(issue(s, secret, { client_id: account.id, scope })), scope).to.equal(
        "INVALID_SCOPE",
      );
    }
  });

  it("are refused alike: unknown, wrong, another's, a user's, expired, revoked, disabled", async () => {
    const { account, secret, set, owner, newKey } = await clientOf(s, "refused");
    const other = await clientOf(s, "stranger");
    const client_id = account.id;
    const users = await s.as(owner, r.createApiKey, { api_key: { name: "mine" } });
    const wrong = `mk_${secret.split("_")[1]}_${randomBytes(32).toString("base64url")}`;
    const refused: [string, string][] = [
      [uuidv7(), secret],
      [client_id, wrong],
      [client_id, `mk_zzzzzzzzzz_${randomBytes(32).toString("base64url")}`],
      [client_id, other.secret],
      [other.account.id, secret],
      [client_id, users.secret ?? ""],
      [users.api_key.principal_id, users.secret ?? ""],
    ];
    for (const [id, one] of refused) {
      expect(await codeOf(issue(s, one, { client_id: id }))).to.equal("INVALID_CLIENT");
    }
    const second = await newKey();
    expect(await codeOf(issue(s, second.secret ?? "", { client_id })), "two at once").to.equal("none");
    await s.as(owner, r.revokeApiKey, { id: second.api_key.id });
    expect(await codeOf(issue(s, second.secret ?? "", { client_id }))).to.equal("INVALID_CLIENT");
    const changes = [
      ["api_keys SET expires_at = clock_timestamp() - interval '1 s'", "api_keys SET expires_at = NULL"],
      ["tenants SET state = 'suspended'", "tenants SET state = 'active'"],
      ["principals SET disabled_at = clock_timestamp()", "principals SET disabled_at = NULL"],
    ] as const;
    for (const [change, back] of changes) {
      await set(change);
      expect(await codeOf(issue(s, secret, { client_id })), change).to.equal("INVALID_CLIENT");
      await set(back);
      expect(await codeOf(issue(s, secret, { client_id })), back).to.equal("none");
    }
  });

  it("are as many as may work at once, and one more when one is revoked", async () => {
    const { owner, newKey, api_key, account } = await clientOf(s, "bounded");
    for (let i = 1; i < workingKeysMax; i++) await newKey();
    expect(await codeOf(newKey())).to.equal("API_KEYS_TOO_MANY");
    await s.as(owner, r.revokeApiKey, { id: api_key.id });
    const { secret } = await newKey();
    expect(await codeOf(issue(s, secret ?? "", { client_id: account.id }))).to.equal("none");
    expect(await codeOf(newKey())).to.equal("API_KEYS_TOO_MANY");
  });
});

describe("refresh tokens", function () {
  this.timeout(60_000);
  let s: Setup;
  before(async () => (s = await setup()));
  after(() => s.close());

  it("come only when asked for, work once, and bring their successor", async () => {
    const t = await clientOf(s, "rotates");
    const first = await issue(s, t.secret, { scope: "member offline_access" });
    expect(first.refresh_token).to.match(refreshTokenPattern);
    expect(first.scope).to.equal("member offline_access");
    const seen = new Set([first.refresh_token]);
    let token = first.refresh_token;
    for (let i = 0; i < 5; i++) {
      const next = await refresh(s, token);
      expect(next.principal).to.deep.equal(first.principal);
      expect(next.refresh_token).to.match(refreshTokenPattern);
      expect(await codeOf(s.as(next.access_token, r.listTenants, { limit: 1 }))).to.equal("none");
      token = next.refresh_token;
      seen.add(token);
    }
    expect(seen).to.have.length(6);
    const dump = await s.database.transaction("system", (tx) =>
      tx.query(`SELECT to_jsonb(f)::text AS row FROM refresh_families f UNION ALL SELECT to_jsonb(t)::text FROM refresh_tokens t
                UNION ALL SELECT to_jsonb(a)::text FROM audit_events a`),
    );
    const text = JSON.stringify(dump);
    for (const one of seen) {
      const secret = (one ?? "").slice(3);
      const forms = [secret, Buffer.from(secret, "base64url").toString("hex"), sha256(one ?? "")];
      for (const form of forms) expect(text, "kept in clear").to.not.include(form);
    }
    expect(await t.audited()).to.deep.equal([
      {
        actor: t.subject,
        action: "refresh-family.issued",
        details: { api_key: t.api_key.prefix, scope: "member" },
      },
    ]);
  });

  it("that were used and come again end their whole family", async () => {
    const t = await clientOf(s, "replayed");
    const first = await issue(s, t.secret, { scope: "offline_access" });
    const second = await refresh(s, first.refresh_token);
    const third = await refresh(s, second.refresh_token);
    expect(await codeOf(refresh(s, first.refresh_token))).to.equal("INVALID_GRANT");
    for (const one of [first, second, third]) {
      expect(await codeOf(refresh(s, one.refresh_token))).to.equal("INVALID_GRANT");
    }
    expect((await t.audited()).slice(1)).to.deep.equal([
      { actor: "auth", action: "refresh-family.reuse-detected", details: { generation: "0", uses: "2" } },
      { actor: "auth", action: "refresh-family.revoked", details: { reason: "reuse" } },
    ]);
    const untouched = await issue(s, t.secret, { scope: "offline_access" });
    expect(await codeOf(refresh(s, untouched.refresh_token)), "another family").to.equal("none");
  });

  it("let one of twenty at once win, and end the family as soon as another shows the same token", async () => {
    const t = await clientOf(s, "twenty");
    const { refresh_token } = await issue(s, t.secret, { scope: "offline_access" });
    const all = await Promise.allSettled(Array.from({ length: 20 }, () => refresh(s, refresh_token)));
    const won = all.flatMap((one) => (one.status === "fulfilled" ? one.value.refresh_token : []));
    expect(won).to.have.length(1);
    expect(await codeOf(refresh(s, won[0] ?? null))).to.equal("INVALID_GRANT");
    const actions = (await t.audited()).map(({ action }) => action);
    expect(actions).to.deep.equal([
      "refresh-family.issued",
      "refresh-family.reuse-detected",
      "refresh-family.revoked",
    ]);
  });

  it("answer the same request again alike, twenty times at once, and only it", async () => {
    const t = await clientOf(s, "retried");
    const first = await issue(s, t.secret, { scope: "offline_access" });
    const key = uuidv7();
    const again = Array.from({ length: 20 }, () => refresh(s, first.refresh_token, { key }));
    const tokens = new Set((await Promise.all(again)).map(({ refresh_token }) => refresh_token));
    expect(tokens).to.have.length(1);
    const [second = null] = tokens;
    const third = await refresh(s, second, { key });
    expect(third.refresh_token).to.not.equal(second);
    // Its successor was used: nobody who asked by right asks again.
    expect(await codeOf(refresh(s, first.refresh_token, { key }))).to.equal("INVALID_GRANT");
    expect(await codeOf(refresh(s, third.refresh_token))).to.equal("INVALID_GRANT");
  });

  it("take another scope, and a retry that comes too late, for a reuse", async () => {
    const t = await clientOf(s, "late");
    for (const how of ["scope", "late"]) {
      const first = await issue(s, t.secret, { scope: "offline_access" });
      const key = uuidv7();
      const second = await refresh(s, first.refresh_token, { key });
      if (how === "late") await t.set("refresh_families SET used_at = used_at - interval '31 seconds'");
      const repeated = refresh(s, first.refresh_token, how === "scope" ? { key, scope: "member" } : { key });
      expect(await codeOf(repeated), how).to.equal("INVALID_GRANT");
      expect(await codeOf(refresh(s, second.refresh_token)), how).to.equal("INVALID_GRANT");
    }
  });

  it("carry at once what their holder has lost, and never more than was asked for at first", async () => {
    const t = await clientOf(s, "lowered");
    const { id } = t.account;
    const wide = await issue(s, t.secret, { scope: "offline_access" });
    const narrow = await issue(s, t.secret, { scope: "admin secrets.read offline_access" });
    const change = { role: "member" as const, permissions: ["approvals.review.prod"] };
    await s.as(t.owner, r.updateServiceAccount, { id, change });
    const [wider, narrower] = [await refresh(s, wide.refresh_token), await refresh(s, narrow.refresh_token)];
    expect(wider.principal).to.deep.include({ roles: ["member"], permissions: ["approvals.review.prod"] });
    expect(narrower.principal).to.deep.include({ roles: ["member"], permissions: [] });
    const more = refresh(s, narrower.refresh_token, { scope: "approvals.review.prod" });
    expect(await codeOf(more)).to.equal("INVALID_SCOPE");
    const less = await refresh(s, narrower.refresh_token, { scope: "member" });
    expect(less.principal.roles, "a refused scope uses nothing up").to.deep.equal(["member"]);
  });

  it("give nothing more once account, key or tenant are gone, or their time is over", async () => {
    const gone: [string, (t: Awaited<ReturnType<typeof clientOf>>) => Promise<unknown>][] = [
      ["key-revoked", (t) => s.as(t.owner, r.revokeApiKey, { id: t.api_key.id })],
      ["key-expired", (t) => t.set("api_keys SET expires_at = clock_timestamp()")],
      ["disabled", (t) => s.as(t.owner, r.disableServiceAccount, { id: t.account.id })],
      ["suspended", (t) => t.set("tenants SET state = 'suspended'")],
      ["idle", (t) => t.set("refresh_families SET ends_at = clock_timestamp()")],
    ];
    for (const [tenantId, end] of gone) {
      const t = await clientOf(s, tenantId);
      const first = await issue(s, t.secret, { scope: "offline_access" });
      const second = await refresh(s, first.refresh_token);
      await end(t);
      expect(await codeOf(refresh(s, second.refresh_token)), tenantId).to.equal("INVALID_GRANT");
    }
  });

  it("live no longer than their settings and their key say", async () => {
    const t = await clientOf(s, "ages");
    const soon = new Date(Date.now() + 1_800_000);
    const short = await t.newKey({ expires_at: soon.toISOString() });
    const bound = await issue(s, short.secret ?? "", { scope: "offline_access" });
    expect(bound.refresh_expires_at).to.equal(soon.toISOString());
    await issue(s, t.secret, { scope: "offline_access" });
    const lives = () =>
      s.database.transaction({ tenants: ["ages"] }, (tx) =>
        tx.query(`SELECT round(extract(epoch FROM expires_at - created_at))::int AS absolute,
                         round(extract(epoch FROM ends_at - created_at))::int AS idle
                    FROM refresh_families ORDER BY id DESC LIMIT 1`),
      );
    expect(await lives()).to.deep.equal([{ absolute: 86_400, idle: 3_600 }]);
    const { refresh_token } = await issue(s, t.secret, { scope: "offline_access" });
    await t.set(
      "refresh_families SET expires_at = clock_timestamp() + interval '60 s', ends_at = clock_timestamp() + interval '50 s'",
    );
    const { refresh_expires_at, expires_in_seconds } = await refresh(s, refresh_token);
    expect(expires_in_seconds, "nor is the access token").to.be.at.most(60);
    const [row] = await s.database.transaction({ tenants: ["ages"] }, (tx) =>
      tx.query<{ expires_at: Date }>("SELECT expires_at FROM refresh_families WHERE uses = 1"),
    );
    expect(refresh_expires_at, "a use is no way past the absolute end").to.equal(
      row?.expires_at.toISOString(),
    );
  });

  it("end when they are revoked, used or not; an unknown one is no fault", async () => {
    const t = await clientOf(s, "revoked");
    const first = await issue(s, t.secret, { scope: "offline_access" });
    const second = await refresh(s, first.refresh_token);
    expect(await revoke(s, `mr_${randomBytes(32).toString("base64url")}`)).to.deep.equal({});
    await Promise.all(Array.from({ length: 10 }, () => revoke(s, first.refresh_token)));
    expect(await codeOf(refresh(s, second.refresh_token))).to.equal("INVALID_GRANT");
    expect((await t.audited()).slice(1)).to.deep.equal([
      { actor: t.subject, action: "refresh-family.revoked", details: { reason: "asked" } },
    ]);
  });

  it("are so many families of one account; a further one displaces the one that would end first", async () => {
    const t = await clientOf(s, "many");
    const begin = () => issue(s, t.secret, { scope: "offline_access" });
    const first = await begin();
    const second = await begin();
    const used = await refresh(s, first.refresh_token);
    await Promise.all(Array.from({ length: familiesMax - 1 }, begin));
    expect(await codeOf(refresh(s, second.refresh_token)), "unused").to.equal("INVALID_GRANT");
    expect(await codeOf(refresh(s, used.refresh_token)), "used since").to.equal("none");
    const displaced = (await t.audited()).filter(({ action }) => action === "refresh-family.revoked");
    expect(displaced).to.have.length(1);
    expect(displaced[0]?.details).to.have.property("reason", "displaced");
  });

  it("are forgotten after their end, some at a time, and none before", async () => {
    const t = await clientOf(s, "pruned");
    let { refresh_token } = await issue(s, t.secret, { scope: "offline_access" });
    for (let i = 0; i < 4; i++) ({ refresh_token } = await refresh(s, refresh_token));
    const living = await issue(s, t.secret, { scope: "offline_access" });
    await revoke(s, refresh_token);
    const prune = (limit: number) => s.database.transaction("system", (tx) => pruneFamilies(tx, limit));
    const left = () =>
      s.database.transaction({ tenants: ["pruned"] }, (tx) =>
        tx.query(`SELECT (SELECT count(*)::int FROM refresh_families) AS families,
                         (SELECT count(*)::int FROM refresh_tokens) AS tokens`),
      );
    expect(await left()).to.deep.equal([{ families: 2, tokens: 6 }]);
    expect(await prune(2)).to.be.at.most(4);
    expect((await left())[0])
      .to.have.property("tokens")
      .that.is.at.least(4);
    while ((await prune(2)) > 0);
    expect(await left()).to.deep.equal([{ families: 1, tokens: 1 }]);
    const last = await refresh(s, living.refresh_token);
    await revoke(s, last.refresh_token);
    const pruner = openTokenPruner({ database: s.database, logger, everyMs: 5 });
    await eventuallyHolds(async () => {
      expect(await left()).to.deep.equal([{ families: 0, tokens: 0 }]);
    });
    await pruner.close();
  });
});
