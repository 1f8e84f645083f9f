import { prepareEvent } from "@muster/broker/prepare";
import { uuidv7 } from "@muster/contracts/ids";
import { commandFinished } from "@muster/contracts/vm-ops";
import { makeBoxKey } from "@muster/sealing/box";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import { describe, it } from "mocha";
import { VaultError } from "../src/vaults/vault.ts";
import {
  admin,
  closeAfterEachTest,
  codeOf,
  inSystem,
  openAgent,
  openGateway,
  openOwners,
  openReliability,
  requests,
  setupGround,
  startSecrets,
} from "./setup.ts";
import type { Gateway, Who } from "./setup.ts";

closeAfterEachTest();

async function setup(env: Record<string, string> = {}) {
  const ground = await setupGround();
  const service = await startSecrets(ground, { env });
  const gateway = await openGateway(ground);
  const owners = await openOwners(ground);
  const agent = await openAgent(ground, owners);
  const bind = (secret_id: string, binding: object = {}, who: Who = admin) =>
    gateway.as(who, requests.createBinding, {
      binding: { secret_id, target: { vm_uuid: agent.vmUuid }, as: { env: "DB_PASSWORD" }, ...binding },
    });
  /** A secret that is bound to the agent's VM. */
  const bound = async (name: string, material: Record<string, string> = { value: `of ${name}` }) => {
    const secret = await gateway.create(name, material);
    const { binding } = await bind(secret.id);
    return { ...secret, binding };
  };
  return { ground, service, gateway, owners, agent, bind, bound };
}

const leasesOf = async (gateway: Gateway, filter: object = {}) =>
  (await gateway.as({}, requests.listLeases, { filter, limit: 100 })).items;

describe("an agent that runs a command", () => {
  it("is given what the command names and its VM is bound to, sealed to it alone, with a lease for each", async () => {
    const { service, gateway, agent, bind, bound } = await setup();
    const one = await bound("one");
    const two = await gateway.create("two", { user: "me", password: "pw" });
    await bind(two.id, { as: { file: "pw" }, field: "password" });
    await bind(two.id, { as: { stdin: true } });
    const asking = agent.runs([
      "secret://one",
      "secret://two#password",
      "secret://two#user",
      "secret://one@1",
    ]);
    const { secrets, leaseMs } = await agent.resolve(asking);
    expect(secrets).to.deep.equal([
      { reference: "secret://one", version: 1, value: "of one", as: { env: "DB_PASSWORD" } },
      { reference: "secret://two#password", version: 1, value: "pw", as: { file: "pw" } },
      { reference: "secret://two#user", version: 1, value: "me", as: { stdin: true } },
      { reference: "secret://one@1", version: 1, value: "of one", as: { env: "DB_PASSWORD" } },
    ]);
    expect(leaseMs).to.be.within(1, 60_000);
    const leases = await leasesOf(gateway);
    expect(leases.map(({ secret_name }) => secret_name).sort()).to.deep.equal(["one", "two"]);
    for (const lease of leases) {
      expect(lease).to.include({ command_id: asking.commandId, attempt: 1, vm_uuid: agent.vmUuid });
      expect(lease).to.include({ agent_id: agent.agentId, state: "active", ended_at: null });
    }
    const text = "SELECT actor FROM audit_events WHERE action = 'secret.leased' AND subject = $1";
    expect(await inSystem(service.database, text, [`secret:${one.id}`])).to.deep.equal([
      { actor: `agent:${agent.agentId}` },
    ]);
  });

  it("is given by labels and by project too, the narrower binding first", async () => {
    const { gateway, agent, bind } = await setup();
    const one = await gateway.create("one", { value: "x" });
    await bind(one.id, { target: { labels: { tier: "db", env: "prod" } }, as: { env: "BY_LABELS" } });
    const resolve = async (more: object) =>
      (await agent.resolve(agent.runs(["secret://one"], more))).secrets.map(({ as }) => as);
    const labels = { vm_labels: { tier: "db", env: "prod", more: "x" } };
    expect(await resolve(labels)).to.deep.equal([{ env: "BY_LABELS" }]);
    expect(await codeOf(resolve({ vm_labels: { tier: "db" } }))).to.equal("SECRET_NOT_BOUND");
    expect(await codeOf(resolve({ project_id: "shop" }))).to.equal("SECRET_NOT_BOUND");
    await bind(one.id, { target: { project_id: "shop" }, as: { env: "BY_PROJECT" } });
    expect(await resolve({ ...labels, project_id: "shop" })).to.deep.equal([{ env: "BY_PROJECT" }]);
    await bind(one.id, { as: { env: "BY_VM" } });
    expect(await resolve({ ...labels, project_id: "shop" })).to.deep.equal([{ env: "BY_VM" }]);
  });

  it("is given nothing that is unbound, disabled, deleted, no version or no field; and is not told what there is", async () => {
    const { gateway, agent, bind, bound } = await setup();
    const resolve = (...references: string[]) => codeOf(agent.resolve(agent.runs(references)));
    await gateway.create("unbound", { value: "x" });
    for (const reference of ["secret://unbound", "secret://unbound@7", "secret://unknown"])
      expect(await resolve(reference)).to.equal("SECRET_NOT_BOUND");
    const one = await bound("one", { a: "1", b: "2" });
    expect(await resolve("secret://one")).to.equal("SECRET_FIELD_NOT_FOUND");
    expect(await resolve("secret://one#c")).to.equal("SECRET_FIELD_NOT_FOUND");
    expect(await resolve("secret://one#a@2")).to.equal("SECRET_VERSION_NOT_FOUND");
    expect(await resolve("secret://one#a", "secret://unbound")).to.equal("SECRET_NOT_BOUND");
    expect(await resolve("secret://one#a")).to.equal("none");
    const { items } = await gateway.as({}, requests.listBindings, {
      filter: { secret_id: one.id },
      limit: 9,
    });
    await gateway.as(admin, requests.disableSecret, { secret_id: one.id });
    expect(await resolve("secret://one#a")).to.equal("SECRET_DISABLED");
    await gateway.as(admin, requests.enableSecret, { secret_id: one.id });
    for (const { id } of items) await gateway.as(admin, requests.removeBinding, { binding_id: id });
    expect(await resolve("secret://one#a")).to.equal("SECRET_NOT_BOUND");
    await bind(one.id, { field: "b" });
    expect(await resolve("secret://one#a")).to.equal("SECRET_NOT_BOUND");
    await gateway.as(admin, requests.deleteSecret, { secret_id: one.id });
    expect(await resolve("secret://one#b")).to.equal("SECRET_NOT_BOUND");
    // What was refused has used up nothing and lent nothing.
    expect(await leasesOf(gateway)).to.have.length(1);
  });

  it("is given nothing for another's attempt, another token, or what its command does not name", async () => {
    const { ground, owners, gateway, agent, bound } = await setup();
    await bound("one");
    const other = await openAgent(ground, owners);
    const asking = agent.runs(["secret://one"]);
    expect(await codeOf(other.resolve(asking))).to.equal("ATTEMPT_NOT_RUNNING");
    for (const wrong of [
      { token: uuidv7() },
      { attempt: 2 },
      { commandId: uuidv7() },
      { references: ["secret://one", "secret://two"] },
    ])
      expect(await codeOf(agent.resolve({ ...asking, ...wrong }))).to.equal("ATTEMPT_NOT_RUNNING");
    expect(await leasesOf(gateway)).to.deep.equal([]);
    expect(await codeOf(agent.resolve(asking))).to.equal("none");
  });

  it("is given nothing without the key that it was paired by", async () => {
    const { ground, owners, agent, bound } = await setup();
    await bound("one");
    const asking = agent.runs(["secret://one"]);
    const proof = "A".repeat(86);
    expect(await codeOf(agent.resolve(asking, { proof }))).to.equal("AGENT_KEY_UNKNOWN");
    // Sealed to a key that somebody else put in place of the agent's.
    const mine = { ...asking, commandId: uuidv7() };
    expect(await codeOf(agent.resolve(mine))).to.equal("ATTEMPT_NOT_RUNNING");
    const weak = Buffer.alloc(32).toString("base64url");
    expect(await codeOf(agent.resolve(asking, { x: weak }))).to.equal("VALIDATION_FAILED");
    for (const change of [{ state: "revoked" }, { epoch: 2 }] as const) {
      const fresh = await openAgent(ground, owners);
      const key = `acme/${fresh.agentId}`;
      const known = owners.agentKeys.get(key);
      if (known !== undefined) owners.agentKeys.set(key, { ...known, ...change });
      expect(await codeOf(fresh.resolve(fresh.runs(["secret://one"])))).to.equal("AGENT_KEY_UNKNOWN");
    }
    expect(await codeOf(agent.resolve(asking))).to.equal("none");
  });

  it("is given it once: the same question gets the same again, any other nothing, of twenty at once one", async () => {
    const { gateway, agent, bound } = await setup();
    const { id } = await bound("one");
    const asking = agent.runs(["secret://one"]);
    const how = { nonce: uuidv7(), key: makeBoxKey() };
    const first = await agent.resolve(asking, how);
    const sealed = await gateway.sealed({ value: "newer" });
    await gateway.as(admin, requests.addVersion, { secret_id: id, sealed });
    const again = await agent.resolve(asking, how);
    expect(again.secrets).to.deep.equal(first.secrets);
    expect(again.sealed).to.not.equal(first.sealed);
    for (const other of [{}, { ...how, key: makeBoxKey() }, { ...how, nonce: uuidv7() }])
      expect(await codeOf(agent.resolve(asking, other))).to.equal("SECRET_LEASE_USED");
    expect(await leasesOf(gateway)).to.have.length(1);
    const crowd = agent.runs(["secret://one"]);
    const codes = await Promise.all(Array.from({ length: 20 }, () => codeOf(agent.resolve(crowd))));
    expect(codes.filter((code) => code === "none")).to.have.length(1);
    expect(codes.filter((code) => code === "SECRET_LEASE_USED")).to.have.length(19);
    expect((await agent.resolve(agent.runs(["secret://one"]))).secrets[0]).to.include({ value: "newer" });
  });

  it("is given nothing again once its lease is over, its secret disabled, or its binding gone", async () => {
    const { service, gateway, agent, bound } = await setup();
    const { id, binding } = await bound("one");
    const asked = async () => {
      const asking = agent.runs(["secret://one"]);
      const how = { nonce: uuidv7(), key: makeBoxKey() };
      await agent.resolve(asking, how);
      return { commandId: asking.commandId, again: () => codeOf(agent.resolve(asking, how)) };
    };
    const revoked = await asked();
    const [lease] = await leasesOf(gateway, { command_id: revoked.commandId });
    for (let n = 0; n < 2; n++) {
      const after = await gateway.as(admin, requests.revokeLease, { lease_id: lease?.id ?? "" });
      expect(after.state).to.equal("revoked");
    }
    expect(await revoked.again()).to.equal("SECRET_LEASE_EXPIRED");
    const disabled = await asked();
    await gateway.as(admin, requests.disableSecret, { secret_id: id });
    expect(await disabled.again()).to.equal("SECRET_DISABLED");
    await gateway.as(admin, requests.enableSecret, { secret_id: id });
    expect(await disabled.again()).to.equal("none");
    const expired = await asked();
    await passTime(service.database);
    expect(await expired.again()).to.equal("SECRET_LEASE_EXPIRED");
    const unbound = await asked();
    await gateway.as(admin, requests.removeBinding, { binding_id: binding.id });
    expect(await unbound.again()).to.equal("SECRET_NOT_BOUND");
  });

  it("may ask again when the vault was away: nothing was used up", async () => {
    const { service, agent, bound } = await setup();
    await bound("one");
    const asking = agent.runs(["secret://one"]);
    const how = { nonce: uuidv7(), key: makeBoxKey() };
    service.vaultScript.before = () => Promise.reject(new VaultError("unavailable", "scripted"));
    expect(await codeOf(agent.resolve(asking, how))).to.equal("VAULT_UNAVAILABLE");
    service.vaultScript.before = () => Promise.resolve();
    expect((await agent.resolve(asking, how)).secrets[0]).to.include({ value: "of one" });
  });

  it("has no lease that is longer than its time, or than the longest one", async () => {
    const { agent, bound } = await setup({ MUSTER_SECRETS_LEASE_MAX_MS: "30000" });
    await bound("one");
    const leaseOf = async (left_ms: number) =>
      (await agent.resolve(agent.runs(["secret://one"], { left_ms }))).leaseMs;
    expect(await leaseOf(5_000)).to.be.within(1, 5_000);
    expect(await leaseOf(3_600_000)).to.be.within(10_000, 30_000);
  });
});

type Database = Awaited<ReturnType<typeof setup>>["service"]["database"];

/** As if two minutes had passed for every lease. */
async function passTime(database: Database): Promise<void> {
  for (const table of ["leases", "handovers"])
    await inSystem(database, `UPDATE ${table} SET expires_at = expires_at - interval '2 minutes'`);
}

describe("a lease", () => {
  it("names who holds a secret, to whoever disables or deletes it", async () => {
    const { gateway, agent, bound } = await setup();
    const { id } = await bound("one");
    const asking = agent.runs(["secret://one"]);
    await agent.resolve(asking);
    for (const request of [requests.disableSecret, requests.deleteSecret]) {
      const { held_by } = await gateway.as(admin, request, { secret_id: id });
      expect(held_by.map(({ command_id }) => command_id)).to.deep.equal([asking.commandId]);
    }
    const foreign = gateway.as({ ...admin, tenant: "bolt" }, requests.listLeases, { filter: {}, limit: 9 });
    expect((await foreign).items).to.deep.equal([]);
  });

  it("ends with its command, however often that is told", async () => {
    const { owners, gateway, agent, bound } = await setup();
    await bound("one");
    const [ended, other] = [agent.runs(["secret://one"]), agent.runs(["secret://one"])];
    await agent.resolve(ended);
    await agent.resolve(other);
    const event = prepareEvent(
      commandFinished,
      {
        ...{ command_id: ended.commandId, vm_uuid: agent.vmUuid, action: "exec", attempt: 1 },
        ...{ at: new Date().toISOString(), state: "succeeded", reason: "completed", effect: "applied" },
        ...{ late: false, exit_code: 0, run_ms: 5, environment: null, project_id: null },
      },
      { context: { correlationId: "test" }, tenantId: "acme" },
    );
    for (let n = 0; n < 2; n++) expect((await owners.vmOps.publish(event)).kind).to.equal("routed");
    const stateOf = async (commandId: string) =>
      (await leasesOf(gateway, { command_id: commandId })).map(({ state }) => state).join();
    await eventually(async () => (await stateOf(ended.commandId)) === "ended");
    expect(await stateOf(other.commandId)).to.equal("active");
  });

  it("expires by itself, and the sweep writes it down", async () => {
    const { ground, service, gateway, agent, bound } = await setup();
    await bound("one");
    await agent.resolve(agent.runs(["secret://one"]));
    await passTime(service.database);
    expect(await leasesOf(gateway, { state: "active" })).to.deep.equal([]);
    expect(await leasesOf(gateway, { state: "expired" })).to.have.length(1);
    const asker = await openReliability(ground);
    const sweep = () => asker.request(requests.sweepSecrets, { limit: 10 }, { correlationId: "test" });
    expect(await sweep()).to.deep.equal({ expired: 1, cleared: 0, more: false });
    expect(await sweep()).to.deep.equal({ expired: 0, cleared: 0, more: false });
    const [row] = await inSystem<{ state: string }>(service.database, "SELECT state FROM leases");
    expect(row?.state).to.equal("expired");
  });
});

describe("a binding", () => {
  it("is made once, listed, counted, removed, and answered again under its key", async () => {
    const { service, gateway, agent, bind } = await setup({ MUSTER_SECRETS_BINDINGS_MAX: "2" });
    const { id } = await gateway.create("one", { value: "x" });
    const labels = { a: "1", b: "2" };
    const { binding } = await bind(id, { target: { labels } });
    expect(binding).to.deep.include({ secret_id: id, secret_name: "one", field: null });
    const turned = { target: { labels: { b: "2", a: "1" } } };
    expect(await codeOf(bind(id, turned))).to.equal("BINDING_ALREADY_EXISTS");
    const keyed = (env: string) =>
      gateway.as(admin, requests.createBinding, {
        binding: { secret_id: id, target: { vm_uuid: agent.vmUuid }, as: { env } },
        idempotency_key: "k1",
      });
    const made = await keyed("X");
    expect(await keyed("X")).to.deep.equal({ ...made, replayed: true });
    expect(await codeOf(keyed("Y"))).to.equal("IDEMPOTENCY_KEY_REUSED");
    expect(await codeOf(bind(id, { as: { env: "Z" } }))).to.equal("BINDINGS_TOO_MANY");
    const list = async (filter: object) =>
      (await gateway.as({}, requests.listBindings, { filter, limit: 9 })).items.map((one) => one.id);
    expect(await list({})).to.deep.equal([made.binding.id, binding.id]);
    expect(await list({ vm_uuid: agent.vmUuid })).to.deep.equal([made.binding.id]);
    expect(await list({ secret_id: uuidv7() })).to.deep.equal([]);
    const remove = () => gateway.as(admin, requests.removeBinding, { binding_id: binding.id });
    expect(await remove()).to.deep.equal(binding);
    expect(await codeOf(remove())).to.equal("BINDING_NOT_FOUND");
    const foreign = bind(id, {}, { ...admin, tenant: "bolt" });
    expect(await codeOf(foreign)).to.equal("SECRET_NOT_FOUND");
    const text = "SELECT action FROM audit_events WHERE action LIKE 'secret.%bound' ORDER BY id";
    const audited = await inSystem<{ action: string }>(service.database, text);
    expect(audited.map(({ action }) => action)).to.deep.equal([
      "secret.bound",
      "secret.bound",
      "secret.unbound",
    ]);
  });
});
