import { uuidv7 } from "@muster/contracts/ids";
import { makeBoxKey, seal } from "@muster/sealing/box";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import { describe, it } from "mocha";
import { VaultError } from "../src/vaults/vault.ts";
import {
  admin,
  closeAfterEachTest,
  codeOf,
  everyRow,
  inSystem,
  openGateway,
  openReliability,
  reader,
  requests,
  setupGround,
  startSecrets,
} from "./setup.ts";
import type { Who } from "./setup.ts";

closeAfterEachTest();

async function setup(env: Record<string, string> = {}) {
  const ground = await setupGround();
  const service = await startSecrets(ground, { env });
  const gateway = await openGateway(ground);
  return { ground, service, gateway };
}

const canary = "canary-2f6b1c9e";

describe("a secret", () => {
  it("is kept, listed and read back, and its value is in no table of Muster", async () => {
    const { ground, service, gateway } = await setup();
    const made = await gateway.create("db_password", { value: canary });
    expect(made).to.include({ name: "db_password", state: "enabled", version: 1, vault: "sealed" });
    expect(made.fields).to.deep.equal(["value"]);
    expect(made.created_by).to.equal(admin.subject);
    expect(await gateway.as({}, requests.getSecret, { secret_id: made.id })).to.deep.equal(made);
    const { items } = await gateway.as({}, requests.listSecrets, { limit: 10 });
    expect(items).to.deep.equal([made]);
    expect(await gateway.read(made.id)).to.deep.equal({ value: canary });

    for (const schema of ["secrets", "sealed_vault"] as const) {
      const dump = JSON.stringify(await everyRow(ground.database.adminUrl, schema));
      expect(dump).to.include(made.id);
      for (const form of ["utf8", "base64", "hex"] as const) {
        const text = Buffer.from(canary).toString(form).replace(/=+$/, "").slice(0, -1);
        expect(dump, `${schema} ${form}`).to.not.include(text);
      }
    }
    const audited = await inSystem<{ action: string; actor: string }>(
      service.database,
      "SELECT action, actor FROM audit_events ORDER BY id",
    );
    expect(audited).to.deep.equal([
      { action: "secret.created", actor: admin.subject },
      { action: "secret.read", actor: admin.subject },
    ]);
  });

  it("has versions; the newest is the current one, and each can be read", async () => {
    const { gateway } = await setup();
    const { id } = await gateway.create("api_key", { value: "one" });
    const sealed = await gateway.sealed({ value: "two", user: "me" });
    const added = await gateway.as(admin, requests.addVersion, { secret_id: id, sealed });
    expect(added.version).to.include({ version: 2, state: "current" });
    expect(added.secret).to.deep.include({ version: 2, fields: ["user", "value"], rotated_at: null });
    expect(await gateway.read(id)).to.deep.equal({ value: "two", user: "me" });
    expect(await gateway.read(id, 1)).to.deep.equal({ value: "one" });
    expect(await codeOf(gateway.read(id, 3))).to.equal("SECRET_VERSION_NOT_FOUND");
    const first = await gateway.as({}, requests.listVersions, { secret_id: id, limit: 1 });
    expect(first.items.map(({ version, state }) => [version, state])).to.deep.equal([[2, "current"]]);
    const cursor = first.next_cursor ?? "";
    const rest = await gateway.as({}, requests.listVersions, { secret_id: id, limit: 1, cursor });
    expect(rest.items.map(({ version, state }) => [version, state])).to.deep.equal([[1, "kept"]]);
    expect(rest.next_cursor).to.equal(null);
  });

  it("is rotated by a given value, or by a generated one that leaves the other fields", async () => {
    const { gateway } = await setup();
    const { id } = await gateway.create("db", { user: "me", password: "old" });
    const value = { generate: { field: "password", length: 40, alphabet: "hex" as const } };
    const rotated = await gateway.as(admin, requests.rotateSecret, { secret_id: id, value });
    expect(rotated.secret.rotated_at).to.be.a("string");
    expect(rotated.version).to.deep.include({ version: 2, fields: ["password", "user"] });
    const material = await gateway.read(id);
    expect(material).to.include({ user: "me" });
    expect(material["password"]).to.match(/^[0-9a-f]{40}$/);
    const given = { sealed: await gateway.sealed({ value: "three" }) };
    await gateway.as(admin, requests.rotateSecret, { secret_id: id, value: given });
    expect(await gateway.read(id)).to.deep.equal({ value: "three" });
  });

  it("is disabled and enabled, again and again harmlessly", async () => {
    const { service, gateway } = await setup();
    const { id } = await gateway.create("one", { value: "x" });
    for (let n = 0; n < 2; n++) {
      const { secret } = await gateway.as(admin, requests.disableSecret, { secret_id: id });
      expect(secret.state).to.equal("disabled");
    }
    for (let n = 0; n < 2; n++)
      expect((await gateway.as(admin, requests.enableSecret, { secret_id: id })).state).to.equal("enabled");
    const text = "SELECT action FROM audit_events WHERE action <> 'secret.created' ORDER BY id";
    const audited = await inSystem<{ action: string }>(service.database, text);
    expect(audited.map(({ action }) => action)).to.deep.equal(["secret.disabled", "secret.enabled"]);
  });

  it("is destroyed for good with every version, and frees its name", async () => {
    const { ground, gateway } = await setup();
    const { id } = await gateway.create("gone", { value: "x" });
    await gateway.as(admin, requests.addVersion, {
      secret_id: id,
      sealed: await gateway.sealed({ value: "y" }),
    });
    for (let n = 0; n < 2; n++) {
      const { secret } = await gateway.as(admin, requests.deleteSecret, { secret_id: id });
      expect(secret).to.include({ state: "deleted", version: null });
    }
    expect(await codeOf(gateway.read(id, 1))).to.equal("SECRET_NOT_FOUND");
    expect((await gateway.as({}, requests.listSecrets, { limit: 10 })).items).to.deep.equal([]);
    const { items } = await gateway.as({}, requests.listVersions, { secret_id: id, limit: 10 });
    expect(items.map(({ state }) => state)).to.deep.equal(["destroyed", "destroyed"]);
    const kept = await everyRow(ground.database.adminUrl, "sealed_vault");
    expect(kept.filter((row) => JSON.stringify(row).includes(id)).map((row) => row["sealed"])).to.deep.equal([
      null,
      null,
    ]);
    const sealed = await gateway.sealed({ value: "z" });
    expect(await codeOf(gateway.as(admin, requests.addVersion, { secret_id: id, sealed }))).to.equal(
      "SECRET_NOT_FOUND",
    );
    expect((await gateway.create("gone", { value: "new" })).id).to.not.equal(id);
  });
});

describe("who may what with secrets", () => {
  it("is the role's for metadata and changes, and one permission's for material", async () => {
    const { gateway } = await setup();
    const { id } = await gateway.create("one", { value: "x" });
    const sealed = await gateway.sealed({ value: "y" });
    const target = { vm_uuid: uuidv7() };
    const changes = [
      () => gateway.as({}, requests.createSecret, { secret: { name: "two" }, sealed }),
      () => gateway.as({}, requests.addVersion, { secret_id: id, sealed }),
      () => gateway.as({}, requests.rotateSecret, { secret_id: id, value: { sealed } }),
      () => gateway.as({}, requests.disableSecret, { secret_id: id }),
      () => gateway.as({}, requests.enableSecret, { secret_id: id }),
      () => gateway.as({}, requests.deleteSecret, { secret_id: id }),
      () => gateway.as({}, requests.createBinding, { binding: { secret_id: id, target, as: { env: "X" } } }),
      () => gateway.as({}, requests.removeBinding, { binding_id: id }),
      () => gateway.as({}, requests.revokeLease, { lease_id: id }),
    ];
    for (const change of changes) expect(await codeOf(change())).to.equal("FORBIDDEN");
    const owner: Who = { role: "owner" };
    expect(await codeOf(gateway.read(id, undefined, owner))).to.equal("FORBIDDEN");
    const member: Who = { permissions: ["secrets.read"] };
    expect(await gateway.read(id, undefined, member)).to.deep.equal({ value: "x" });
  });

  it("ends at the tenant", async () => {
    const { gateway } = await setup();
    const { id } = await gateway.create("one", { value: "x" });
    const other: Who = { ...reader, tenant: "bolt", role: "owner" };
    const sealed = await gateway.sealed({ value: "y" }, "bolt");
    expect(await codeOf(gateway.as(other, requests.getSecret, { secret_id: id }))).to.equal(
      "SECRET_NOT_FOUND",
    );
    expect(await codeOf(gateway.read(id, undefined, other))).to.equal("SECRET_NOT_FOUND");
    expect(await codeOf(gateway.as(other, requests.addVersion, { secret_id: id, sealed }))).to.equal(
      "SECRET_NOT_FOUND",
    );
    expect(await codeOf(gateway.as(other, requests.deleteSecret, { secret_id: id }))).to.equal(
      "SECRET_NOT_FOUND",
    );
    // What was sealed for one tenant opens for no other.
    const moved = { secret: { name: "two" }, sealed: await gateway.sealed({ value: "z" }, "acme") };
    expect(await codeOf(gateway.as(other, requests.createSecret, moved))).to.equal("VALIDATION_FAILED");
    expect((await gateway.create("one", { value: "theirs" }, other)).version).to.equal(1);
  });
});

describe("what a request for a secret may not be", () => {
  it("is sealed to another key, no material, a name that is taken, or one too many", async () => {
    const { gateway } = await setup({
      MUSTER_SECRETS_PER_TENANT_MAX: "2",
      MUSTER_SECRETS_VERSIONS_MAX: "2",
    });
    const create = (name: string, sealed: string) =>
      codeOf(gateway.as(admin, requests.createSecret, { secret: { name }, sealed }));
    const about = "muster.secrets.write:acme";
    const stranger = await seal(Buffer.from("{}"), { x: makeBoxKey().x, about });
    expect(await create("one", stranger)).to.equal("SEALING_KEY_UNKNOWN");
    for (const bad of [{}, { value: "" }, { value: "a\0b" }, { "no good": "x" }])
      expect(await create("one", await gateway.sealed(bad))).to.equal("VALIDATION_FAILED");
    expect(await create("one", await gateway.sealed({ value: "x" }))).to.equal("none");
    expect(await create("one", await gateway.sealed({ value: "x" }))).to.equal("SECRET_ALREADY_EXISTS");
    const { id } = await gateway.create("two", { value: "x" });
    expect(await create("three", await gateway.sealed({ value: "x" }))).to.equal("SECRETS_TOO_MANY");
    const add = async () =>
      codeOf(
        gateway.as(admin, requests.addVersion, {
          secret_id: id,
          sealed: await gateway.sealed({ value: "y" }),
        }),
      );
    expect(await add()).to.equal("none");
    expect(await add()).to.equal("SECRET_VERSIONS_TOO_MANY");
  });

  it("is another one under the same key", async () => {
    const { service, gateway } = await setup();
    const create = async (name: string, value: string, idempotency_key: string, who: Who = admin) =>
      gateway.as(who, requests.createSecret, {
        secret: { name },
        sealed: await gateway.sealed({ value, user: "me" }, who.tenant),
        idempotency_key,
      });
    const first = await create("one", "x", "k1");
    expect(first.replayed).to.equal(false);
    expect(await create("one", "x", "k1")).to.deep.equal({ ...first, replayed: true });
    for (const [name, value, path] of [
      ["two", "x", "name"],
      ["one", "y", "material"],
    ] as const) {
      const refused: unknown = await create(name, value, "k1").catch((error: unknown) => error);
      expect(refused).to.include({ code: "IDEMPOTENCY_KEY_REUSED" });
      expect(Reflect.get(refused as object, "details")).to.have.nested.property("[0].path", path);
    }
    expect((await create("one", "x", "k1", { ...admin, tenant: "bolt" })).replayed).to.equal(false);
    // Twenty at once are one.
    const many = await Promise.all(Array.from({ length: 20 }, () => create("many", "x", "k2")));
    expect(new Set(many.map(({ secret }) => secret.id)).size).to.equal(1);
    expect(many.filter(({ replayed }) => !replayed)).to.have.length(1);
    const kept = await inSystem<{ n: number }>(
      service.database,
      "SELECT count(*)::integer AS n FROM versions",
    );
    expect(kept).to.deep.equal([{ n: 3 }]);
  });
});

describe("what a crash or a vault leaves half done", () => {
  const hang = () => new Promise<never>(() => undefined);
  const later = "UPDATE versions SET changed_at = changed_at - interval '1 hour'";
  const rows = "SELECT secret_id, version, state FROM versions";

  it("goes on where it was for the same request, wherever the process died", async () => {
    const { ground, service, gateway } = await setup();
    for (const [at, when] of [
      ["before", "one"],
      ["after", "two"],
    ] as const) {
      let reached = () => {};
      const died = new Promise<void>((resolve) => (reached = resolve));
      service.vaultScript[at] = () => {
        reached();
        return hang();
      };
      const payload = {
        secret: { name: when },
        sealed: await gateway.sealed({ value: "x" }),
        idempotency_key: when,
      };
      const lost = codeOf(gateway.as(admin, requests.createSecret, payload));
      await died;
      service.vaultScript[at] = () => Promise.resolve();
      const made = await gateway.as(admin, requests.createSecret, payload);
      expect(made.secret).to.include({ name: when, version: 1, state: "enabled" });
      expect(await gateway.read(made.secret.id)).to.deep.equal({ value: "x" });
      void lost;
    }
    const kept = await everyRow(ground.database.adminUrl, "sealed_vault");
    expect(kept.filter((row) => "wrapped_key" in row)).to.have.length(2);
  });

  it("is cleared away, out of the vault too, when nobody comes back; and its name is free", async () => {
    const { ground, service, gateway } = await setup();
    let reached = () => {};
    const died = new Promise<void>((resolve) => (reached = resolve));
    service.vaultScript.after = () => {
      reached();
      return hang();
    };
    const payload = { secret: { name: "one" }, sealed: await gateway.sealed({ value: "x" }) };
    void codeOf(gateway.as(admin, requests.createSecret, payload));
    await died;
    service.vaultScript.after = () => Promise.resolve();
    expect(await codeOf(gateway.create("one", { value: "x" }))).to.equal("SECRET_ALREADY_EXISTS");
    expect(await sweep(ground)).to.deep.equal({ expired: 0, cleared: 0, more: false });
    await inSystem(service.database, later);
    await sweep(ground);
    await gateway.create("one", { value: "y" });
    await inSystem(service.database, later);
    expect(await sweep(ground)).to.deep.equal({ expired: 0, cleared: 1, more: false });
    const left = await inSystem<{ state: string }>(service.database, rows);
    expect(left.map(({ state }) => state)).to.deep.equal(["kept"]);
    const vault = (await everyRow(ground.database.adminUrl, "sealed_vault")).filter((row) => "kek_id" in row);
    expect(vault.map((row) => row["sealed"] === null).sort()).to.deep.equal([false, true]);
  });

  it("is given up at once when the vault refuses, and told by the vault's code", async () => {
    const { service, gateway } = await setup();
    for (const [fault, code] of [
      ["unavailable", "VAULT_UNAVAILABLE"],
      ["refused", "VAULT_REFUSED"],
      ["garbled", "VAULT_REFUSED"],
    ] as const) {
      service.vaultScript.before = () => Promise.reject(new VaultError(fault, "scripted"));
      expect(await codeOf(gateway.create("one", { value: "x" }))).to.equal(code);
    }
    service.vaultScript.before = () => Promise.resolve();
    expect((await gateway.create("one", { value: "x" })).version).to.equal(1);
  });

  it("is deleted in the end, when the vault was away while it was", async () => {
    const { ground, service, gateway } = await setup();
    const { id } = await gateway.create("one", { value: "x" });
    service.vaultScript.before = () => Promise.reject(new VaultError("unavailable", "scripted"));
    expect(await codeOf(gateway.as(admin, requests.deleteSecret, { secret_id: id }))).to.equal(
      "VAULT_UNAVAILABLE",
    );
    expect((await gateway.as({}, requests.getSecret, { secret_id: id })).state).to.equal("deleted");
    expect(await codeOf(gateway.read(id))).to.equal("SECRET_NOT_FOUND");
    await inSystem(service.database, later);
    expect((await sweep(ground)).cleared).to.equal(0);
    service.vaultScript.before = () => Promise.resolve();
    await inSystem(service.database, later);
    expect((await sweep(ground)).cleared).to.equal(1);
    const left = await inSystem<{ state: string }>(service.database, rows);
    expect(left.map(({ state }) => state)).to.deep.equal(["destroyed"]);
  });

  async function sweep(ground: Awaited<ReturnType<typeof setupGround>>) {
    const asker = await openReliability(ground);
    return await asker.request(requests.sweepSecrets, { limit: 100 }, { correlationId: uuidv7() });
  }
});

describe("an event of a secret", () => {
  it("follows each change, and says what it was and not what it is", async () => {
    const { ground, gateway } = await setup();
    const queue = `watching-${uuidv7()}`;
    await ground.vhost.call("PUT", `/queues/{vhost}/${queue}`, { durable: false });
    await ground.vhost.call("POST", `/bindings/{vhost}/e/muster.secrets.events/q/${queue}`, {
      routing_key: "#",
    });
    const { id } = await gateway.create("one", { value: canary });
    const seen = await eventually(async () => {
      const taken = await ground.vhost.take(queue);
      return taken.length > 0 && taken;
    });
    const texts = seen.map(({ payload }) => payload);
    expect(texts[0]).to.include(id).and.to.include('"created"');
    expect(texts.join()).to.not.include(canary);
  });
});
