import { createHash } from "node:crypto";
import { authRequests } from "@muster/contracts/auth";
import { uuidv7 } from "@muster/contracts/ids";
import { meshTokenLifeMaxSeconds } from "@muster/contracts/mesh-keys";
import { tokensRevoked } from "@muster/contracts/token-revocations";
import type { TokenRevocation } from "@muster/contracts/token-revocations";
import { openVerifier } from "@muster/identity/verify";
import type { Verifier } from "@muster/identity/verify";
import { createMetrics } from "@muster/telemetry/metrics";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { openRevocationTeller } from "../src/revocations/tell.ts";
import { pruneRevocations } from "../src/revocations/store.ts";
import { setupExternal } from "./external.ts";
import type { External } from "./external.ts";
import { codeOf, context, logger, makeKey } from "./setup.ts";
import type { Setup } from "./setup.ts";

const r = authRequests;
const invalid = "INVALID_OR_MISSING_BEARER_TOKEN";
const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");

/** One who starts now, and knows what the list says. */
function openLate(s: Setup): Verifier {
  return openVerifier({
    fetchKeys: () => s.asker.request(r.getKeys, {}, context),
    fetchRevocations: (page) => s.asker.request(r.listTokenRevocations, { ...page, limit: 2 }, context),
    ...{ mode: "enforced", shadowTenantId: "shadow-tenant", logger },
    metrics: createMetrics({ service: "test" }),
  });
}

/** A tenant with a service account that has two keys, and tokens of it. */
async function robotOf(s: Setup, tenantId: string) {
  const owner = (await s.exchange(await makeKey(s.database, tenantId))).access_token;
  const rights = { role: "admin" as const, permissions: ["secrets.read", "secrets.write"] };
  const { service_account: account } = await s.as(owner, r.createServiceAccount, {
    service_account: { name: "robot", ...rights },
  });
  const newKey = async () => {
    const { api_key, secret } = await s.as(owner, r.createApiKey, {
      api_key: { name: "key", principal_id: account.id },
    });
    return { id: api_key.id, secret: secret ?? "" };
  };
  const [first, second] = [await newKey(), await newKey()];
  const issue = () => {
    const asked = { prefix: first.secret.split("_")[1] ?? "", key_sha256: sha256(first.secret) };
    return s.asker.request(r.issueToken, { ...asked, scope: "offline_access" }, context);
  };
  const refresh = (token: string | null) => {
    const asked = { token_sha256: sha256(token ?? ""), request_key: uuidv7() };
    return s.asker.request(r.refreshToken, asked, context);
  };
  return { owner, id: account.id, subject: `service-account:${account.id}`, first, second, issue, refresh };
}

const change = (s: Setup, text: string, tenantId: string) =>
  s.database.transaction("system", (tx) => tx.execute(`UPDATE ${text} WHERE tenant_id = $1`, [tenantId]));

describe("a change that takes something away", function () {
  this.timeout(60_000);
  let s: External;
  const heard: TokenRevocation[] = [];
  before(async () => {
    s = await setupExternal();
    await s.broker.hear(tokensRevoked, { heard: (one) => heard.push(one), missed: () => undefined });
  });
  after(() => s.close());

  const toldOf = (tenantId: string) => heard.filter((one) => one.tenant_id === tenantId);
  const told = (tenantId: string) =>
    eventually(() => {
      const [one] = toldOf(tenantId);
      return one && { subject: one.subject, reason: one.reason };
    });

  const changes: [
    string,
    (robot: Awaited<ReturnType<typeof robotOf>>, tenantId: string) => Promise<unknown>,
    (robot: Awaited<ReturnType<typeof robotOf>>) => { subject: string | null; reason: string },
  ][] = [
    [
      "disabled",
      ({ owner, id }) => s.as(owner, r.disableServiceAccount, { id }),
      ({ subject }) => ({ subject, reason: "account-disabled" }),
    ],
    [
      "role",
      ({ owner, id }) => s.as(owner, r.updateServiceAccount, { id, change: { role: "member" } }),
      ({ subject }) => ({ subject, reason: "account-lost-rights" }),
    ],
    [
      "permission",
      ({ owner, id }) =>
        s.as(owner, r.updateServiceAccount, { id, change: { role: "owner", permissions: ["secrets.read"] } }),
      ({ subject }) => ({ subject, reason: "account-lost-rights" }),
    ],
    [
      "key",
      ({ owner, first }) => s.as(owner, r.revokeApiKey, { id: first.id }),
      ({ first }) => ({ subject: `api-key:${first.id}`, reason: "api-key-revoked" }),
    ],
  ];
  for (const [what, make, expected] of changes) {
    it(`voids the tokens before it, tells of it with its commit, and is in the list: ${what}`, async () => {
      const tenantId = `told-${what}`;
      const robot = await robotOf(s, tenantId);
      const before = (await s.exchange(robot.first.secret)).access_token;
      expect(await codeOf(s.as(before, r.listTenants, { limit: 1 }))).to.equal("none");
      await make(robot, tenantId);
      expect(await told(tenantId)).to.deep.equal(expected(robot));
      expect(await codeOf(openLate(s).verify(before)), "one who starts later").to.equal(invalid);
      for (const ask of [s.as, s.unheard]) {
        await eventuallyHolds(async () =>
          expect(await codeOf(ask(before, r.listTenants, { limit: 1 }))).to.equal(invalid),
        );
      }
      const refusal: unknown = await s
        .unheard(before, r.listTenants, { limit: 1 })
        .catch((error: unknown) => error);
      expect(refusal).to.have.nested.property("details[0].message", "the token was revoked");
      expect(await codeOf(s.unheard(robot.owner, r.listTenants, { limit: 1 }))).to.equal("none");
      expect(await codeOf(openLate(s).verify(robot.owner)), "anybody else's").to.equal("none");
    });
  }

  it("is told of a tenant that somebody suspends by a statement of his own", async () => {
    const robot = await robotOf(s, "told-by-hand");
    const before = (await s.exchange(robot.first.secret)).access_token;
    const teller = openRevocationTeller({ database: s.database, logger, everyMs: 10 });
    await change(s, "tenants SET state = 'suspended'", "told-by-hand");
    expect(await told("told-by-hand")).to.deep.equal({ subject: null, reason: "tenant-suspended" });
    for (const token of [robot.owner, before]) {
      expect(await codeOf(openLate(s).verify(token))).to.equal(invalid);
    }
    await change(s, "tenants SET state = 'active'", "told-by-hand");
    const again = await s.exchange(robot.first.secret);
    expect(await codeOf(openLate(s).verify(again.access_token)), "active again").to.equal("none");
    await teller.close();
  });

  it("leaves a holder's other keys and families alone: what ends is what was exchanged for it", async () => {
    const robot = await robotOf(s, "exact");
    const other = (await s.exchange(robot.second.secret)).access_token;
    const [family, asked, used] = [await robot.issue(), await robot.issue(), await robot.issue()];
    await s.asker.request(r.revokeToken, { token_sha256: sha256(asked.refresh_token ?? "") }, context);
    const next = await robot.refresh((await robot.refresh(used.refresh_token)).refresh_token);
    expect(await codeOf(robot.refresh(used.refresh_token))).to.equal("INVALID_GRANT");
    const reasons = () => toldOf("exact").map(({ reason }) => reason);
    await eventuallyHolds(() =>
      expect(reasons()).to.deep.equal(["refresh-token-revoked", "refresh-token-reused"]),
    );
    const late = openLate(s);
    for (const ended of [asked, used, next]) {
      expect(await codeOf(late.verify(ended.access_token))).to.equal(invalid);
    }
    for (const good of [family.access_token, other]) expect(await codeOf(late.verify(good))).to.equal("none");
    await s.as(robot.owner, r.revokeApiKey, { id: robot.first.id });
    const later = openLate(s);
    expect(await codeOf(later.verify(family.access_token)), "a family of the key").to.equal(invalid);
    expect(await codeOf(later.verify(other)), "the holder's other key").to.equal("none");
  });

  it("voids what an outside issuer that is removed vouched for, and what a newer token of it has taken back", async () => {
    const { owner, id } = await s.trustedBy("vouched", { audience: "vouched" });
    const boss = await s.take(await s.token({ aud: "vouched", roles: ["boss"], iat: s.seconds() - 50 }));
    const operator = await s.take(await s.token({ aud: "vouched", roles: ["operator"] }));
    expect(await told("vouched")).to.deep.equal({
      subject: boss.principal.subject,
      reason: "account-lost-rights",
    });
    expect(await codeOf(openLate(s).verify(boss.access_token))).to.equal(invalid);
    expect(await codeOf(openLate(s).verify(operator.access_token))).to.equal("none");
    await s.as(owner, r.removeIssuer, { id });
    expect(await codeOf(openLate(s).verify(operator.access_token))).to.equal(invalid);
    expect(await codeOf(openLate(s).verify(owner))).to.equal("none");
  });

  it("is nothing where nothing is taken away", async () => {
    const { owner, id, first } = await robotOf(s, "quiet");
    const { access_token } = await s.exchange(first.secret);
    const more = { role: "owner" as const, permissions: ["secrets.write", "secrets.read", "billing.read"] };
    for (const one of [{ name: "another" }, more]) {
      await s.as(owner, r.updateServiceAccount, { id, change: one });
    }
    expect(await codeOf(openLate(s).verify(access_token))).to.equal("none");
    // What is told later comes later: nothing else was told before it.
    await s.as(owner, r.disableServiceAccount, { id });
    await told("quiet");
    expect(toldOf("quiet").map(({ reason }) => reason)).to.deep.equal(["account-disabled"]);
  });
});

describe("tokens around a change", function () {
  this.timeout(60_000);
  let s: External;
  before(async () => (s = await setupExternal()));
  after(() => s.close());

  it("that are exchanged again at once work, as often as it changes within a second", async () => {
    const { owner, id, first } = await robotOf(s, "at-once");
    for (let n = 0; n < 20; n++) {
      const permissions = n % 2 === 0 ? ["secrets.read"] : ["secrets.write"];
      const { access_token: before } = await s.exchange(first.secret);
      await s.as(owner, r.updateServiceAccount, { id, change: { permissions } });
      const late = openLate(s);
      expect(await codeOf(late.verify(before))).to.equal(invalid);
      const { access_token: after } = await s.exchange(first.secret);
      expect((await late.verify(after)).permissions).to.deep.equal(permissions);
    }
  });

  it("that were read before its commit are void, though they are made after it", async () => {
    const { id, first } = await robotOf(s, "in-flight");
    const made = await s.database.transaction("system", async (tx) => {
      await tx.execute("UPDATE principals SET permissions = '{}' WHERE id = $1", [id]);
      const { now } = (await tx.query<{ now: Date }>("SELECT clock_timestamp() AS now"))[0]!;
      // Whole seconds: what is issued now says a later one than that of the change.
      await eventually(() => Date.now() >= Math.ceil(now.getTime() / 1_000 + 0.001) * 1_000);
      return await s.exchange(first.secret);
    });
    expect(made.principal.permissions).to.deep.equal(["secrets.read", "secrets.write"]);
    expect(await codeOf(openLate(s).verify(made.access_token))).to.equal(invalid);
    const again = await s.exchange(first.secret);
    expect(again.principal.permissions).to.deep.equal([]);
    expect(await codeOf(openLate(s).verify(again.access_token))).to.equal("none");
  });

  it("say truly what they were made from, with many changes and exchanges at once", async () => {
    const robots = [await robotOf(s, "busy"), await robotOf(s, "busy"), await robotOf(s, "busy")];
    const owner = robots[0]!.owner;
    const given: { token: string; rights: readonly string[] }[] = [];
    const exchange = async (secret: string): Promise<void> => {
      for (let n = 0; n < 15; n++) {
        const { access_token: token, principal } = await s.exchange(secret);
        given.push({ token, rights: principal.permissions });
      }
    };
    await Promise.all(
      robots.flatMap(({ id, first, second }) => [
        exchange(first.secret),
        exchange(second.secret),
        s.as(owner, r.updateServiceAccount, { id, change: { permissions: ["secrets.read"] } }),
      ]),
    );
    const late = openLate(s);
    const verdicts = await Promise.all(
      given.map(async ({ token, rights }) => ({
        lost: rights.length > 1,
        code: await codeOf(late.verify(token)),
      })),
    );
    for (const { lost, code } of verdicts) expect(code).to.equal(lost ? invalid : "none");
    expect(verdicts.filter(({ lost }) => !lost)).to.not.have.length(0);
  });
});

describe("the list of revocations", function () {
  this.timeout(60_000);
  let s: External;
  before(async () => (s = await setupExternal()));
  after(() => s.close());

  it("has each subject once, page by page, and forgets what no token outlives", async () => {
    const { owner, first, second, id } = await robotOf(s, "listed");
    await s.as(owner, r.revokeApiKey, { id: first.id });
    await s.as(owner, r.revokeApiKey, { id: second.id });
    await s.as(owner, r.updateServiceAccount, { id, change: { role: "member" } });
    await s.as(owner, r.disableServiceAccount, { id });
    const read = async () => {
      const items: TokenRevocation[] = [];
      let cursor: string | undefined;
      do {
        const page = { limit: 1, ...(cursor === undefined ? {} : { cursor }) };
        const answer = await s.asker.request(r.listTokenRevocations, page, context);
        items.push(...answer.items);
        cursor = answer.next_cursor ?? undefined;
      } while (cursor !== undefined);
      return items;
    };
    const items = await read();
    expect(items.map(({ reason }) => reason).sort()).to.deep.equal([
      "account-disabled",
      "api-key-revoked",
      "api-key-revoked",
    ]);
    for (const one of items) {
      const lifeMs = Date.parse(one.until) - Date.parse(one.not_before);
      const onMeshMs = meshTokenLifeMaxSeconds * 1_000;
      expect(lifeMs, "longer than any token lives, and two made from it, one by the other").to.be.greaterThan(
        3_600_000 + 2 * onMeshMs,
      );
    }
    const bad = { limit: 1, cursor: "none" };
    expect(await codeOf(s.asker.request(r.listTokenRevocations, bad, context))).to.equal("CURSOR_INVALID");
    const passed =
      "token_revocations SET not_before = not_before - interval '2 h', until = until - interval '2 h'";
    await change(s, passed, "listed");
    expect(await read()).to.deep.equal([]);
    expect(await s.database.transaction("system", (tx) => pruneRevocations(tx, 2))).to.equal(2);
    expect(await s.database.transaction("system", (tx) => pruneRevocations(tx, 2))).to.equal(1);
  });
});
