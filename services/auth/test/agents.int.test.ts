import { randomUUID } from "node:crypto";
import { openBroker } from "@muster/broker/broker";
import { ensureUser, urlFor } from "@muster/broker/users";
import { authRequests } from "@muster/contracts/auth";
import { brokerAudience, brokerTokenType } from "@muster/contracts/broker-tokens";
import type { PayloadOf } from "@muster/contracts/define";
import { uuidv7 } from "@muster/contracts/ids";
import { agentChanged, assertionAudience, pairingAudience } from "@muster/contracts/pairing";
import { agentLoginName, loginName } from "@muster/contracts/senders";
import { agentPermissions } from "@muster/contracts/permissions";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { createLocalJWKSet, decodeProtectedHeader, jwtVerify } from "jose";
import { after, before, describe, it } from "mocha";
import { openCodesMax } from "../src/agents/manage.ts";
import { assertionOf, newKey, proofOf, sha256, type Key } from "./agent-keys.ts";
import { codeOf, logger, makeKey, metrics, setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

describe("agents by their identity", function () {
  this.timeout(60_000);
  let s: Setup;
  let owner: string;
  let stranger: string;
  const heard: PayloadOf<typeof agentChanged>[] = [];

  before(async () => {
    s = await setup();
    for (const tenant of ["acme", "other"]) {
      const { access_token } = await s.exchange(await makeKey(s.database, tenant));
      if (tenant === "acme") owner = access_token;
      else stranger = access_token;
    }
    await s.broker.hear(agentChanged, { heard: (change) => heard.push(change), missed: () => undefined });
  });
  after(() => s.close());

  const newCode = async (
    body: { agent_id?: string; vm_uuids?: string[] } = { vm_uuids: [uuidv7()] },
    token = owner,
  ) => {
    const made = await s.as(token, authRequests.createPairingCode, { pairing_code: body });
    return { ...made.pairing_code, code: made.code ?? "" };
  };
  const pairWith = async (code: string, key: Key, proof?: string) =>
    await s.as(undefined, authRequests.pairAgent, {
      ...{ code_sha256: sha256(code), public_key: key.publicKey, proof: proof ?? (await proofOf(code, key)) },
    });
  const paired = async (body?: { agent_id?: string; vm_uuids?: string[] }) => {
    const made = await newCode(body);
    const key = await newKey();
    return { made, key, agent: (await pairWith(made.code, key)).agent };
  };
  const tokensFor = (assertion: string) => s.as(undefined, authRequests.issueAgentTokens, { assertion });
  const audited = (action: string, agentId: string) =>
    s.database.transaction("system", (tx) =>
      tx.query("SELECT actor FROM audit_events WHERE action = $1 AND subject = $2", [
        action,
        `agent:${agentId}`,
      ]),
    );

  it("are paired by a code that works once, by whoever has the key, and the mesh hears of it", async () => {
    const vms = [uuidv7(), uuidv7()];
    const made = await newCode({ vm_uuids: vms });
    expect(made.code).to.match(/^mp_/);
    const key = await newKey();
    const first = await pairWith(made.code, key);
    expect(first).to.deep.include({ tenant_id: "acme", broker_url: null });
    expect(first.agent).to.deep.include({
      agent_id: made.agent_id,
      state: "paired",
      epoch: 1,
      vm_uuids: vms,
    });
    expect(await pairWith(made.code, key), "the answer was lost").to.deep.equal(first);
    expect(await codeOf(pairWith(made.code, await newKey()))).to.equal("PAIRING_CODE_INVALID");
    const change = await eventually(() => heard.find((one) => one.agent_id === made.agent_id));
    expect(change).to.deep.include({ state: "paired", epoch: 1, revision: 1, vm_uuids: vms });
    expect(await audited("agent.paired", made.agent_id)).to.have.length(1);
  });

  it("are not paired by a wrong, expired or unknown code, nor by who has not the private key", async () => {
    const made = await newCode();
    const key = await newKey();
    const thief = await newKey();
    const zero = { publicKey: { ...key.publicKey, x: "A".repeat(43) }, privateKey: key.privateKey };
    const tries: Promise<unknown>[] = [
      pairWith(`mp_${"x".repeat(43)}`, key),
      pairWith(made.code, key, await proofOf(made.code, thief)),
      pairWith(made.code, key, await proofOf("another code", key)),
      pairWith(made.code, key, await proofOf(made.code, key, { audience: assertionAudience })),
      pairWith(made.code, zero, await proofOf(made.code, key)),
    ];
    expect(await Promise.all(tries.map(codeOf))).to.deep.equal(tries.map(() => "PAIRING_CODE_INVALID"));
    await s.database.transaction("system", (tx) =>
      tx.query("UPDATE pairing_codes SET expires_at = clock_timestamp() WHERE id = $1", [made.id]),
    );
    expect(await codeOf(pairWith(made.code, key))).to.equal("PAIRING_CODE_INVALID");
    const get = s.as(owner, authRequests.getPairedAgent, { agent_id: made.agent_id });
    expect(await codeOf(get)).to.equal("AGENT_NOT_FOUND");
  });

  it("get tokens for exactly their queues and reports, by the broker's own keys, for an assertion of theirs", async () => {
    const vms = [uuidv7(), uuidv7()];
    const { agent, key } = await paired({ vm_uuids: vms });
    const tokens = await tokensFor(await assertionOf(agent.agent_id, key));
    const keys = createLocalJWKSet(await s.as(undefined, authRequests.getBrokerKeys, {}));
    const options = { audience: brokerAudience, typ: brokerTokenType, algorithms: ["EdDSA"] };
    const read = async (token: string) => (await jwtVerify(token, keys, options)).payload;
    const vhost = encodeURIComponent(s.vhost.name);
    const report = `muster-broker.write:${vhost}/muster.agents/agents.acme.${agent.agent_id}.*`;
    const queues = vms.map((vm) => `muster-broker.read:${vhost}/vm.acme.${vm}.commands`);
    const sub = agentLoginName(agent.agent_id, { epoch: 1 });
    expect(await read(tokens.access_token)).to.deep.include({ sub, scope: [report, ...queues] });
    expect(await read(tokens.login_token)).to.deep.include({ sub, scope: [report] });
    const { keys: accessKeys } = await s.as(undefined, authRequests.getKeys, {});
    const { kid } = decodeProtectedHeader(tokens.access_token);
    expect(accessKeys.map((one) => one.kid)).to.not.include(kid);
    expect(await codeOf(s.as(tokens.access_token, authRequests.listPairedAgents, { limit: 10 }))).to.equal(
      "INVALID_OR_MISSING_BEARER_TOKEN",
    );
  });

  it("get nothing for an assertion that is used, old, long, for another, by another key, or not signed at all", async () => {
    const { agent, key } = await paired();
    const another = await paired();
    const id = agent.agent_id;
    const nowSeconds = Math.floor(Date.now() / 1_000);
    const once = await assertionOf(id, key);
    await tokensFor(once);
    const good = await assertionOf(id, key);
    const [head, body, signature] = good.split(".") as [string, string, string];
    const none = Buffer.from(JSON.stringify({ alg: "none" })).toString("base64url");
    const otherBody = (await assertionOf(another.agent.agent_id, key)).split(".")[1] ?? "";
    const wrong = {
      used: once,
      old: await assertionOf(id, key, { issuedAt: nowSeconds - 400 }),
      early: await assertionOf(id, key, { issuedAt: nowSeconds + 400 }),
      long: await assertionOf(id, key, { lifeSeconds: 600 }),
      audience: await assertionOf(id, key, { audience: pairingAudience }),
      "another's key": await assertionOf(id, another.key),
      "another's name": await assertionOf(another.agent.agent_id, key),
      "key in the header": await assertionOf(id, another.key, { header: { jwk: another.key.publicKey } }),
      "jti too short": await assertionOf(id, key, { jti: "1" }),
      "alg none": `${none}.${body}.${signature}`,
      tampered: `${head}.${otherBody}.${signature}`,
      unknown: await assertionOf(uuidv7(), key),
    };
    for (const [why, assertion] of Object.entries(wrong)) {
      expect(await codeOf(tokensFor(assertion)), why).to.equal("INVALID_GRANT");
    }
    expect(await codeOf(tokensFor(good))).to.equal("none");
  });

  it("are paired anew with another key and one epoch more; the key before is of no use", async () => {
    const { agent, key } = await paired();
    await tokensFor(await assertionOf(agent.agent_id, key));
    const again = await paired({ agent_id: agent.agent_id });
    const [blocked] = await s.database.transaction("system", (tx) =>
      tx.query<{ seconds: number }>(
        `SELECT extract(epoch FROM until - clock_timestamp())::float8 AS seconds FROM broker_evictions
          WHERE login = $1`,
        [agentLoginName(agent.agent_id)],
      ),
    );
    expect(blocked?.seconds, "for as long as the token lives that it has").to.be.greaterThan(500);
    expect(again.agent).to.deep.include({ agent_id: agent.agent_id, epoch: 2, vm_uuids: agent.vm_uuids });
    expect(await codeOf(tokensFor(await assertionOf(agent.agent_id, key)))).to.equal("INVALID_GRANT");
    const tokens = await tokensFor(await assertionOf(agent.agent_id, again.key));
    expect(tokens.epoch).to.equal(2);
    const change = await eventually(() =>
      heard.find((one) => one.agent_id === agent.agent_id && one.epoch === 2),
    );
    expect(change).to.deep.include({ state: "paired", revision: 2 });
  });

  it("lose their VMs by a change, and what they lost is in no token from then on", async () => {
    const [kept, lost] = [uuidv7(), uuidv7()];
    const { agent, key } = await paired({ vm_uuids: [kept, lost] });
    const change = { agent_id: agent.agent_id, change: { vm_uuids: [kept], name: "smaller" } };
    const changed = await s.as(owner, authRequests.updatePairedAgent, change);
    expect(changed).to.deep.include({ vm_uuids: [kept], name: "smaller", epoch: 1 });
    const tokens = await tokensFor(await assertionOf(agent.agent_id, key));
    expect(tokens.vm_uuids).to.deep.equal([kept]);
    expect(Buffer.from(tokens.access_token.split(".")[1] ?? "", "base64url").toString()).to.not.include(lost);
  });

  it("are thrown out of the broker when they are revoked, and let in by no password or token until these are dead", async () => {
    const { agent, key } = await paired();
    const login = agentLoginName(agent.agent_id, { epoch: 1 });
    const permissions = agentPermissions({
      tenantId: "acme",
      agentId: agent.agent_id,
      vmUuids: agent.vm_uuids,
    });
    const user = { name: login, password: randomUUID(), permissions };
    await ensureUser(s.vhost, user);
    const connection = {
      url: urlFor(s.vhost.amqpUrl, user),
      name: "agent",
      logger,
      metrics,
      openTimeoutMs: 0,
    };
    const broker = await openBroker(connection);
    expect(broker.state).to.equal("connected");
    const revoked = await s.as(owner, authRequests.revokeAgent, { agent_id: agent.agent_id });
    expect(revoked.state).to.equal("revoked");
    await eventuallyHolds(() => expect(broker.state).to.equal("reconnecting"));
    await broker.close();
    expect(await codeOf(openBroker(connection))).to.include("BrokerRefusedError");
    expect(await codeOf(tokensFor(await assertionOf(agent.agent_id, key)))).to.equal("INVALID_GRANT");
    expect(await s.as(owner, authRequests.revokeAgent, { agent_id: agent.agent_id })).to.deep.equal(revoked);
    expect(await audited("agent.revoked", agent.agent_id)).to.have.length(1);
    const evictions = () =>
      s.database.transaction("system", (tx) =>
        tx.query("SELECT closed_at FROM broker_evictions WHERE login = $1", [login]),
      );
    await s.database.transaction("system", (tx) =>
      tx.query("UPDATE broker_evictions SET until = clock_timestamp() WHERE login = $1", [login]),
    );
    await eventuallyHolds(async () => expect(await evictions()).to.deep.equal([]));
  });

  it("belong to their tenant, and to its admins", async () => {
    const { agent } = await paired();
    const id = { agent_id: agent.agent_id };
    const asStranger = [
      s.as(stranger, authRequests.getPairedAgent, id),
      s.as(stranger, authRequests.revokeAgent, id),
      s.as(stranger, authRequests.updatePairedAgent, { ...id, change: { name: "mine" } }),
    ];
    expect(await Promise.all(asStranger.map(codeOf))).to.deep.equal(asStranger.map(() => "AGENT_NOT_FOUND"));
    const { items } = await s.as(stranger, authRequests.listPairedAgents, { limit: 10 });
    expect(items).to.deep.equal([]);
    const made = await newCode({ ...id, vm_uuids: [uuidv7()] }, stranger);
    expect(await codeOf(pairWith(made.code, await newKey())), "another's id").to.equal(
      "PAIRING_CODE_INVALID",
    );
    const member = await s.sign({ tenantId: "acme", subject: `user:${uuidv7()}`, role: "member" });
    const pairing_code = { vm_uuids: [uuidv7()] };
    expect(await codeOf(s.as(member, authRequests.createPairingCode, { pairing_code }))).to.equal(
      "FORBIDDEN",
    );
  });

  it("have a key that is told to the secrets service alone, as they were paired last", async () => {
    const asSecrets = await openBroker({
      ...{ url: await s.vhost.urlAs(loginName("secrets")), name: "secrets", service: "secrets" },
      ...{ logger, metrics },
    });
    const ask = (agent_id: string, tenant_id = "acme") =>
      asSecrets.request(authRequests.getAgentKey, { tenant_id, agent_id }, { correlationId: "test" });
    const { agent, key } = await paired();
    const id = agent.agent_id;
    expect(await ask(id)).to.deep.equal({ state: "paired", epoch: 1, public_key: key.publicKey });
    const again = await paired({ agent_id: id });
    expect(await ask(id)).to.deep.equal({ state: "paired", epoch: 2, public_key: again.key.publicKey });
    await s.as(owner, authRequests.revokeAgent, { agent_id: id });
    expect(await ask(id)).to.deep.include({ state: "revoked", epoch: 2 });
    const unknown = await Promise.all([ask(id, "other"), ask(id, "nobody"), ask(randomUUID())].map(codeOf));
    expect(unknown).to.deep.equal(unknown.map(() => "AGENT_NOT_FOUND"));
    const own = await paired();
    const setTenant = (state: string) =>
      s.database.transaction("system", (tx) =>
        tx.query("UPDATE tenants SET state = $1 WHERE tenant_id = 'acme'", [state]),
      );
    await setTenant("suspended");
    expect(await codeOf(ask(own.agent.agent_id)), "its tenant is suspended").to.equal("AGENT_NOT_FOUND");
    await setTenant("active");
    const asGateway = s.asker.request(
      authRequests.getAgentKey,
      { tenant_id: "acme", agent_id: own.agent.agent_id },
      { correlationId: "test" },
    );
    expect(await codeOf(asGateway), "another service").to.not.equal("none");
    await asSecrets.close();
  });

  it("are listed page by page", async () => {
    const all = await s.as(owner, authRequests.listPairedAgents, { limit: 100 });
    const ids: string[] = [];
    for (let cursor: string | undefined; ;) {
      const page = await s.as(owner, authRequests.listPairedAgents, {
        limit: 2,
        ...(cursor === undefined ? {} : { cursor }),
      });
      ids.push(...page.items.map((one) => one.agent_id));
      if (page.next_cursor === null) break;
      cursor = page.next_cursor;
    }
    expect(ids).to.deep.equal(all.items.map((one) => one.agent_id));
    expect(ids.length).to.be.greaterThan(4);
  });

  it("have no more codes waiting for them than a tenant may have, and a new one needs VMs", async () => {
    expect(await codeOf(newCode({}))).to.equal("VALIDATION_FAILED");
    await s.database.transaction("system", (tx) =>
      tx.query(
        `INSERT INTO pairing_codes (id, tenant_id, hash, agent_id, name, vm_uuids, created_by, expires_at)
         SELECT gen_random_uuid(), 'other', sha256(n::text::bytea), gen_random_uuid(), 'n', ARRAY[gen_random_uuid()],
           'test', clock_timestamp() + interval '1 hour' FROM generate_series(1, $1::integer) AS n`,
        [openCodesMax],
      ),
    );
    expect(await codeOf(newCode({ vm_uuids: [uuidv7()] }, stranger))).to.equal("PAIRING_CODES_TOO_MANY");
  });
});
