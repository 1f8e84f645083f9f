import { createHash, randomBytes } from "node:crypto";
import { openBroker } from "@muster/broker/broker";
import { authRequests } from "@muster/contracts/auth";
import type { PayloadInputOf, RequestContract } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { limits } from "@muster/contracts/limits";
import type { LimitName } from "@muster/contracts/limits";
import { routes } from "@muster/contracts/routes";
import { loginName } from "@muster/contracts/senders";
import { createMetrics } from "@muster/telemetry/metrics";
import type { Metrics } from "@muster/telemetry/metrics";
import { eventuallyHolds } from "@muster/testing/eventually";
import { openFaultyLink } from "@muster/testing/faults";
import { expect } from "chai";
import type { Bounds } from "../src/limits/bounds.ts";
import { pruneLimits } from "../src/limits/store.ts";
import { openAuth } from "../src/open-auth.ts";
import { assertionOf, pairedWith } from "./agent-keys.ts";
import { openOutside, outsideKey } from "./outside.ts";
import type { Outside } from "./outside.ts";
import {
  agentParts,
  tokenTtlSeconds,
  codeOf,
  context,
  externalParts,
  logger,
  makeKey,
  open,
  openReplica,
  refreshLife,
  setup,
} from "./setup.ts";
import type { Setup } from "./setup.ts";

// Long, so that nothing leaks away while a test runs.
const windowSeconds = 7_200;
const bounds: Bounds = {
  "failures-by-address": { max: 20, windowSeconds },
  "failures-by-credential": { max: 30, windowSeconds },
  "tokens-by-principal": { max: 15, windowSeconds },
  "tokens-by-tenant": { max: 25, windowSeconds },
  "agent-tokens-by-tenant": { max: 25, windowSeconds },
};
const declared = Object.entries<RequestContract>(authRequests);
const declaring = (limit: LimitName) => declared.filter(([, contract]) => contract.limits.includes(limit));

const jwtType = "urn:ietf:params:oauth:token-type:jwt" as const;
const letters = "abcdefghijklmnopqrstuvwxyz";
const newPrefix = () => Array.from(randomBytes(10), (byte) => letters[byte % 26]).join("");
const wrongHash = () => randomBytes(32).toString("hex");
const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");
let addresses = 0;
const newAddress = () => `10.${(addresses += 1) >> 8}.${addresses & 255}.1`;

type Asked = PayloadInputOf<typeof authRequests.exchangeApiKey>;
const keyed = (key: string): Asked => ({ prefix: key.split("_")[1] ?? "", key_sha256: sha256(key) });
const exchange = (s: Setup, asked: Asked) => s.asker.request(authRequests.exchangeApiKey, asked, context);

/** One try with what nobody has; "none" where no fault is found with it. */
async function fail(s: Setup, contract: RequestContract, client_address?: string): Promise<string> {
  const hashes = { key_sha256: wrongHash(), token_sha256: wrongHash() };
  const named = { prefix: newPrefix(), request_key: uuidv7() };
  const foreign = { subject_token: "e30.e30.e30", subject_token_type: jwtType };
  const from = client_address === undefined ? {} : { client_address };
  const jws = "e30.e30.e30";
  const public_key = { kty: "OKP", crv: "Ed25519", x: "A".repeat(43) };
  const agents = { code_sha256: wrongHash(), public_key, proof: jws, assertion: jws };
  const all = { ...hashes, ...named, ...foreign, ...agents, ...from };
  return await codeOf(s.asker.request(contract, all, context));
}

const times = async <T>(count: number, work: (at: number) => Promise<T>): Promise<T[]> => {
  const done: T[] = [];
  for (let at = 0; at < count; at++) done.push(await work(at));
  return done;
};
const limitedOf = (codes: readonly string[]) => codes.filter((code) => code === "RATE_LIMITED").length;

/** As if so much time had passed for everything that was counted. */
const passTime = (s: Setup, seconds: number) =>
  s.database.transaction("system", (tx) =>
    tx.execute(
      `UPDATE rate_limits SET clear_at = clear_at - $1 * interval '1 second',
                              told_until = told_until - $1 * interval '1 second'`,
      [seconds],
    ),
  );

const told = (s: Setup) =>
  s.database.transaction("system", (tx) =>
    tx.query<{ tenant_id: string | null; subject: string; limit: string }>(
      `SELECT tenant_id, subject, details->>'limit' AS limit FROM audit_events
        WHERE action = 'limit.reached' ORDER BY at, id`,
    ),
  );

async function countOf(metrics: Metrics): Promise<number> {
  const text = await metrics.registry.getSingleMetricAsString("muster_auth_rate_limited_total");
  return [...text.matchAll(/\} (\d+)$/gm)].reduce((sum, [, count]) => sum + Number(count), 0);
}

describe("limits are declared", () => {
  it("by every request of auth that anybody may ask for a token, and by every open route", () => {
    // By the gateway alone what anybody may ask of it; what processes ask on their own account gives no token.
    const ownAccount = ["registerMeshKey", "getMeshKeys", "getAgentKey"];
    const anybody = declared.filter(
      ([key, { identity }]) => identity === "none" && !ownAccount.includes(key),
    );
    const open = anybody.map(([key]) => key);
    const unlimited = open.filter((key) => declared.find(([one]) => one === key)?.[1].limits.length === 0);
    const forServices = ["getKeys", "getBrokerKeys", "listTokenRevocations"];
    expect(unlimited, "the same for everybody").to.deep.equal(forServices);
    for (const [key, route] of Object.entries(routes)) {
      if (route.access !== "public" && route.access !== "credentials") continue;
      expect("limits" in route && route.limits, key).to.include("failures-by-address");
    }
    for (const [key, { limits: names, codes }] of declared) {
      expect(codes.includes("RATE_LIMITED"), key).to.equal(names.length > 0);
    }
  });
});

describe("limits", function () {
  this.timeout(60_000);
  let s: Setup;
  before(async () => (s = await setup({ bounds })));
  let outside: Outside | undefined;
  after(async () => {
    await s.close();
    await outside?.close();
  });

  for (const [key, contract] of declaring("failures-by-address")) {
    it(`turn an address away that fails too often: ${key}`, async () => {
      const [address, other] = [newAddress(), newAddress()];
      const { max } = bounds["failures-by-address"];
      expect(limitedOf(await times(max, () => fail(s, contract, address)))).to.equal(0);
      expect(limitedOf(await times(5, () => fail(s, contract, address)))).to.equal(5);
      expect(await fail(s, contract, other), "another address").to.not.equal("RATE_LIMITED");
      expect(limitedOf(await times(max + 1, () => fail(s, contract))), "of nobody's address").to.equal(0);
    });
  }

  /** How a holder gets a token by each request that gives some. */
  const grants: Record<string, (key: string) => Promise<() => Promise<unknown>>> = {
    exchangeApiKey: async (key) => () => exchange(s, keyed(key)),
    issueToken: async (key) => () => s.asker.request(authRequests.issueToken, keyed(key), context),
    async refreshToken(key) {
      const begin = { ...keyed(key), scope: "offline_access" };
      let { refresh_token: token } = await s.asker.request(authRequests.issueToken, begin, context);
      return async () => {
        const asked = { token_sha256: sha256(token ?? ""), request_key: uuidv7() };
        ({ refresh_token: token } = await s.asker.request(authRequests.refreshToken, asked, context));
      };
    },
    async issueAgentTokens(key) {
      const { access_token: owner } = await exchange(s, keyed(key));
      const agent = await pairedWith(s, owner);
      return async () => {
        const assertion = await assertionOf(agent.id, agent.key);
        await s.asker.request(authRequests.issueAgentTokens, { assertion }, context);
      };
    },
    async exchangeToken(key) {
      outside = await openOutside();
      const signing = await outsideKey("k1", "ES256");
      await outside.publish(signing);
      const { access_token: owner } = await exchange(s, keyed(key));
      const role_map = [{ value: "operator", role: "member" as const }];
      const issuer = { issuer: outside.issuer, audience: "muster", roles_claim: "roles", role_map };
      await s.as(owner, authRequests.createIssuer, { issuer });
      const iat = Math.floor(Date.now() / 1_000);
      const claims = { aud: "muster", sub: "person", iat, exp: iat + 600, roles: ["operator"] };
      const asked = { subject_token: await outside.sign(signing, claims), subject_token_type: jwtType };
      return () => s.asker.request(authRequests.exchangeToken, asked, context);
    },
  };
  for (const [key, contract] of declaring("tokens-by-principal")) {
    it(`slow a holder down who takes too many tokens, and nobody else: ${key}`, async () => {
      const ofTenant = contract.limits.filter(
        (name) => limits[name].counts === "tokens" && limits[name].by === "tenant",
      );
      expect(ofTenant).to.have.length(1);
      const tenant = `takes-${key.toLowerCase()}`;
      const mine = await makeKey(s.database, tenant);
      const take = await grants[key]!(mine);
      await passTime(s, windowSeconds);
      const { max } = bounds["tokens-by-principal"];
      expect(limitedOf(await times(max, () => codeOf(take())))).to.equal(0);
      expect(limitedOf(await times(2 * max, () => codeOf(take())))).to.equal(2 * max);
      const other = await makeKey(s.database, `${tenant}-other`);
      expect(await codeOf(exchange(s, keyed(other))), "another tenant").to.equal("none");
      await passTime(s, windowSeconds / max);
      expect(await codeOf(take()), "one more after its time").to.equal("none");
      expect(await codeOf(take())).to.equal("RATE_LIMITED");
    });
  }

  it("leave a tenant's others what one account may not take alone, and hold them all together", async () => {
    const owner = await makeKey(s.database, "shared-out");
    const { access_token: token } = await exchange(s, keyed(owner));
    const accounts = await times(2, async (at) => {
      const made = await s.as(token, authRequests.createServiceAccount, {
        service_account: { name: `robot ${at}` },
      });
      const api_key = { name: "secret", principal_id: made.service_account.id };
      return (await s.as(token, authRequests.createApiKey, { api_key })).secret ?? "";
    });
    await passTime(s, windowSeconds);
    // The owner's forty: fifteen get a token, and the rest take nothing of the tenant's twenty-five.
    expect(limitedOf(await times(40, () => codeOf(exchange(s, keyed(owner)))))).to.equal(25);
    const [first = "", second = ""] = accounts;
    expect(limitedOf(await times(9, () => codeOf(exchange(s, keyed(first)))))).to.equal(0);
    expect(limitedOf(await times(3, () => codeOf(exchange(s, keyed(second)))))).to.equal(2);
  });

  it("let no stranger lock a holder out, however often many fail with his key's prefix", async () => {
    const key = await makeKey(s.database, "victim");
    const { prefix } = keyed(key);
    const from = Array.from({ length: 100 }, newAddress);
    const { issueToken } = authRequests;
    const tries = await times(10, () =>
      Promise.all(
        from.map((client_address) => {
          const asked = { prefix, key_sha256: wrongHash(), client_address };
          return codeOf(s.asker.request(issueToken, asked, context));
        }),
      ),
    );
    const { max } = bounds["failures-by-credential"];
    expect(limitedOf(tries.flat()), "the guessers are told to wait").to.equal(1_000 - max);
    for (const client_address of [newAddress(), from[0]!]) {
      const asked = { ...keyed(key), client_address };
      expect(await codeOf(exchange(s, asked)), client_address).to.equal("none");
      expect(await codeOf(s.asker.request(issueToken, asked, context)), client_address).to.equal("none");
    }
    const events = await told(s);
    expect(events.filter(({ tenant_id }) => tenant_id === "victim")).to.have.length(1);
    expect(events.find(({ tenant_id }) => tenant_id === "victim")).to.include({
      limit: "failures-by-credential",
    });
  });

  it("do nothing for whoever is turned away: no token, no family ended, no refresh token begun", async () => {
    const key = await makeKey(s.database, "untouched");
    const begin = { ...keyed(key), scope: "offline_access" };
    const begun = await s.asker.request(authRequests.issueToken, begin, context);
    const address = newAddress();
    await times(20, () => fail(s, authRequests.refreshToken, address));
    const presented = { token_sha256: sha256(begun.refresh_token ?? ""), client_address: address };
    const asked = { ...presented, request_key: uuidv7() };
    expect(await codeOf(s.asker.request(authRequests.refreshToken, asked, context))).to.equal("RATE_LIMITED");
    const begins = { ...begin, client_address: address };
    expect(await codeOf(s.asker.request(authRequests.issueToken, begins, context))).to.equal("RATE_LIMITED");
    expect(await codeOf(s.asker.request(authRequests.revokeToken, presented, context))).to.equal(
      "RATE_LIMITED",
    );
    const elsewhere = { ...asked, client_address: newAddress() };
    expect(await codeOf(s.asker.request(authRequests.refreshToken, elsewhere, context))).to.equal("none");
    const families = await s.database.transaction({ tenants: ["untouched"] }, (tx) =>
      tx.query("SELECT uses FROM refresh_families"),
    );
    expect(families).to.deep.equal([{ uses: 1 }]);
  });

  it("count all of one site's IPv6 addresses as one", async () => {
    const site = (at: number) => `2001:db8:7:7:${at.toString(16)}::1`;
    const codes = await times(25, (at) => fail(s, authRequests.exchangeApiKey, site(at)));
    expect(limitedOf(codes)).to.equal(5);
    expect(await fail(s, authRequests.exchangeApiKey, "2001:db8:7:8::1")).to.not.equal("RATE_LIMITED");
  });

  it("slide by the database's clock, and say when to come again", async () => {
    const address = newAddress();
    const { exchangeApiKey } = authRequests;
    const { max } = bounds["failures-by-address"];
    await times(max, () => fail(s, exchangeApiKey, address));
    await passTime(s, windowSeconds / 2);
    const half = await times(max, () => fail(s, exchangeApiKey, address));
    expect(max - limitedOf(half)).to.equal(max / 2);
    const asked = { prefix: newPrefix(), key_sha256: wrongHash(), client_address: address };
    const refusal: unknown = await exchange(s, asked).catch((error: unknown) => error);
    if (!(refusal instanceof MusterError)) throw new Error("was not turned away");
    expect(refusal.details).to.deep.equal([
      { path: "limit", message: `failures-by-address: ${max} in ${windowSeconds} s` },
    ]);
    expect(refusal.retryAfterMs).to.be.within(1_000, (windowSeconds / max) * 1_000);
    await passTime(s, (refusal.retryAfterMs ?? 0) / 1_000);
    expect(await fail(s, exchangeApiKey, address)).to.not.equal("RATE_LIMITED");
    expect(await fail(s, exchangeApiKey, address)).to.equal("RATE_LIMITED");
  });

  it("are told in an audit event when one is reached, once in a window", async () => {
    const address = newAddress();
    const mine = async () => (await told(s)).filter(({ subject }) => subject === `address:${address}`);
    await times(19, () => fail(s, authRequests.revokeToken, address));
    expect(await mine()).to.deep.equal([]);
    await times(30, () => fail(s, authRequests.revokeToken, address));
    await passTime(s, windowSeconds / 4);
    await times(30, () => fail(s, authRequests.revokeToken, address));
    const once = { tenant_id: null, subject: `address:${address}`, limit: "failures-by-address" };
    expect(await mine()).to.deep.equal([once]);
    await passTime(s, windowSeconds);
    await times(30, () => fail(s, authRequests.revokeToken, address));
    expect(await mine()).to.deep.equal([once, once]);
  });

  it("forget what is over, and keep at most so many rows: the fullest", async () => {
    const address = newAddress();
    await times(20, () => fail(s, authRequests.revokeToken, address));
    const count = () =>
      s.database.transaction("system", async (tx) => {
        const [row] = await tx.query<{ count: number }>("SELECT count(*)::int AS count FROM rate_limits");
        return row!.count;
      });
    await s.database.transaction("system", (tx) =>
      tx.execute(
        `INSERT INTO rate_limits (name, key, clear_at, given, filled)
         SELECT 'failures-by-address', 'flood ' || n, clock_timestamp() + n * interval '1 ms' - interval '1 s', 1, false
           FROM generate_series(1, 3000) n`,
      ),
    );
    const prune = () => s.database.transaction("system", (tx) => pruneLimits(tx, 1_000, 500));
    await eventuallyHolds(async () => expect(await prune()).to.equal(0), 10_000);
    expect(await count()).to.be.at.most(500);
    expect(await fail(s, authRequests.revokeToken, address), "who was full still is").to.equal(
      "RATE_LIMITED",
    );
    await passTime(s, 2 * windowSeconds);
    await prune();
    expect(await count()).to.equal(0);
  });
});

/** One more process of auth, on a database link of its own; counts for itself what it refused. */
async function addReplica(s: Setup, name: string) {
  const link = await openFaultyLink(s.postgres.urlFor("auth"));
  const metrics = createMetrics({ service: name });
  const database = await open(link.url);
  const broker = await openBroker({
    ...{ url: await s.vhost.urlAs(loginName("auth")), name, service: "auth", logger, metrics },
    identify: () => Promise.reject(new MusterError("FORBIDDEN")),
  });
  const signing = await openReplica(database);
  const agents = await agentParts(database, s.vhost);
  await openAuth({
    ...{ database, broker, signing, keeping: { ...s.keeping, tokenTtlSeconds, database }, refreshLife },
    ...{ agents: agents.agents, bounds, logger, metrics },
    external: externalParts({ aheadMs: 0 }),
    operatorTenantId: "default",
  });
  return {
    ...{ link, metrics, broker },
    async close() {
      for (const part of [broker, agents, signing, database, link]) await part.close();
    },
  };
}

describe("limits of several processes", function () {
  this.timeout(60_000);

  it("are one: any number of replicas let through together what one would", async () => {
    const s = await setup({ bounds });
    const replicas = [await addReplica(s, "auth-2"), await addReplica(s, "auth-3")];
    // Only the two that count for themselves answer.
    await s.broker.close();
    const broker = s.asker;
    const address = newAddress();
    const codes = await Promise.all(
      Array.from({ length: 200 }, () => {
        const asked = { token_sha256: wrongHash(), client_address: address };
        return codeOf(broker.request(authRequests.revokeToken, asked, context));
      }),
    );
    expect(limitedOf(codes)).to.equal(180);
    const refused = await Promise.all(replicas.map(({ metrics }) => countOf(metrics)));
    expect(refused[0]! + refused[1]!).to.equal(180);
    for (const count of refused) expect(count).to.be.above(0);
    for (const one of replicas) await one.close();
    await s.close();
  });

  it("let nobody in while the database is away, and refuse nobody for it: 503, and as before when it is back", async () => {
    const s = await setup({ bounds });
    const replica = await addReplica(s, "auth-2");
    const key = await makeKey(s.database, "away");
    await s.broker.close();
    const ask = (asked: Asked) => codeOf(s.asker.request(authRequests.exchangeApiKey, asked, context));
    const wrong = () => ({ prefix: newPrefix(), key_sha256: wrongHash(), client_address: "10.99.0.1" });
    await times(20, () => ask(wrong()));
    replica.link.refuse();
    replica.link.cut();
    for (const asked of [keyed(key), wrong()]) expect(await ask(asked)).to.equal("DEPENDENCY_UNAVAILABLE");
    replica.link.heal();
    await eventuallyHolds(async () => expect(await ask(keyed(key))).to.equal("none"), 20_000);
    expect(await ask(wrong()), "what was counted is still known").to.equal("RATE_LIMITED");
    await replica.close();
    await s.close();
  });
});

describe("the table of limits", () => {
  it("names what each counts and by what", () => {
    for (const [name, { counts, by }] of Object.entries(limits)) {
      expect(name).to.match(new RegExp(`^([a-z]+-)?${counts}-by-${by}$`));
    }
  });
});
