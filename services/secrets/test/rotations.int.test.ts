import { prepareEvent } from "@muster/broker/prepare";
import { MusterError } from "@muster/contracts/errors";
import type { ErrorCode } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { commandFinished } from "@muster/contracts/vm-ops";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { describe, it } from "mocha";
import {
  admin,
  closeAfterEachTest,
  codeOf,
  inSystem,
  openGateway,
  openOwners,
  openReliability,
  requests,
  setupGround,
  startSecrets,
} from "./setup.ts";
import type { Who } from "./setup.ts";

closeAfterEachTest();

type End = Partial<Parameters<typeof prepareEvent<typeof commandFinished>>[1]>;

/** A secret that is bound, with a follow-up each, to so many VMs. */
async function setup(vmCount = 1) {
  const ground = await setupGround();
  const service = await startSecrets(ground);
  const gateway = await openGateway(ground);
  const owners = await openOwners(ground);
  const reliability = await openReliability(ground);
  const { id } = await gateway.create("one", { value: "first" });
  const vms = Array.from({ length: vmCount }, () => uuidv7()).sort();
  const bind = async (vm_uuid: string, more: object = {}) =>
    await gateway.as(admin, requests.createBinding, {
      binding: {
        ...{ secret_id: id, target: { vm_uuid }, as: { env: "TOKEN" } },
        follow_up: { action: "exec", params: { program: "reload" }, timeout_seconds: 30 },
        ...more,
      },
    });
  for (const vm of vms) await bind(vm);
  const rotate = async ({
    value = "second",
    ...more
  }: { value?: string; [option: string]: unknown } = {}) => {
    const sealed = await gateway.sealed({ value });
    return await gateway.as(admin, requests.rotateSecret, { secret_id: id, value: { sealed }, ...more });
  };
  const rotated = async (o: Record<string, unknown> = {}) => {
    const { rotation } = await rotate(o);
    if (rotation === null) throw new Error("nothing follows");
    return rotation;
  };
  const read = (rotation_id: string, who: Who = {}) =>
    gateway.as(who, requests.getRotation, { secret_id: id, rotation_id });
  const sent = (vm: string, round: 1 | 2 = 1) =>
    eventually(async () => {
      const found = [...owners.followUps.accepted.values()].find(
        ({ command, idempotency_key: key }) => command.vm_uuid === vm && key.endsWith(`:${round}`),
      );
      if (found === undefined) throw new Error("not sent yet");
      return Promise.resolve(found);
    });
  const finish = async (commandId: string, end: End = {}) => {
    const event = prepareEvent(
      commandFinished,
      {
        ...{ command_id: commandId, vm_uuid: uuidv7(), action: "exec", attempt: 1 },
        ...{ at: new Date().toISOString(), state: "succeeded", reason: "completed", effect: "applied" },
        ...{ late: false, exit_code: 0, run_ms: 5, environment: null, project_id: null },
        ...end,
      },
      { context: { correlationId: "test" }, tenantId: "acme" },
    );
    expect((await owners.vmOps.publish(event)).kind).to.equal("routed");
  };
  const known = (commandId: string) =>
    eventuallyHolds(async () => {
      const text = "SELECT 1 FROM follow_ups WHERE command_id = $1";
      expect(await inSystem(service.database, text, [commandId])).to.have.length(1);
    });
  /** As if the VM ran it. */
  const runs = async (vm: string, end: End = {}, round: 1 | 2 = 1) => {
    const { commandId } = await sent(vm, round);
    await known(commandId);
    await finish(commandId, end);
    return commandId;
  };
  const inState = (rotation_id: string, state: string) =>
    eventually(async () => {
      const rotation = await read(rotation_id);
      if (rotation.state === state) return rotation;
      throw new Error(`is ${rotation.state}: ${JSON.stringify(rotation.follow_ups)}`);
    });
  const current = async () => (await gateway.as({}, requests.getSecret, { secret_id: id })).version;
  const sweep = () => reliability.request(requests.sweepSecrets, { limit: 100 }, { correlationId: "test" });
  const passTime = (table: string, column: string) =>
    inSystem(service.database, `UPDATE ${table} SET ${column} = ${column} - interval '2 hours'`);
  const addVersion = async (value: string) =>
    await gateway.as(admin, requests.addVersion, { secret_id: id, sealed: await gateway.sealed({ value }) });
  return {
    ...{ ground, service, gateway, owners, id, vms, bind, rotate, rotated, read, sent, finish, known, runs },
    ...{ inState, current, sweep, passTime, addVersion },
  };
}

const failed: End = { state: "failed", reason: "exit_nonzero", effect: "unknown", exit_code: 1 };
const statesOf = (rotation: { follow_ups: readonly { state: string }[] }) =>
  rotation.follow_ups.map(({ state }) => state);

describe("a rotation", function () {
  this.timeout(60_000);

  it("has each VM told once, by a command of whoever rotated, and has succeeded when all have", async () => {
    const s = await setup(3);
    await startSecrets(s.ground);
    const { secret, version, rotation, replayed } = await s.rotate({ idempotency_key: "k1" });
    expect(replayed).to.equal(false);
    expect(secret.version).to.equal(2);
    expect(version).to.include({ version: 2, state: "current" });
    expect(rotation).to.include({ state: "running", reason: null, from_version: 1, to_version: 2 });
    expect(rotation?.follow_ups.map(({ vm_uuid }) => vm_uuid).sort()).to.deep.equal(s.vms);
    const id = rotation?.id ?? "";
    for (const vm of s.vms) expect((await s.read(id)).state, await s.runs(vm)).to.equal("running");
    const done = await s.inState(id, "succeeded");
    expect(statesOf(done)).to.deep.equal(["succeeded", "succeeded", "succeeded"]);
    expect(done.ended_at).to.be.a("string");
    expect(await s.current()).to.equal(2);
    expect(s.owners.followUps.accepted.size).to.equal(3);
    expect(s.owners.followUps.asked).to.have.length(3);
    for (const { tenant_id, requested_by, command } of s.owners.followUps.accepted.values()) {
      expect({ tenant_id, requested_by }).to.deep.equal({ tenant_id: "acme", requested_by: admin.subject });
      expect(command).to.deep.include({ action: "exec", params: { program: "reload", args: [] } });
      expect(command.timeout_seconds).to.equal(30);
    }
    const text = "SELECT action, actor FROM audit_events WHERE action LIKE 'secret.rot%' ORDER BY id";
    expect(await inSystem(s.service.database, text)).to.deep.equal([
      { action: "secret.rotated", actor: admin.subject },
      { action: "secret.rotation-succeeded", actor: admin.subject },
    ]);
    // The first answer, for ever; and another wish under its key is refused.
    expect(await s.rotate({ idempotency_key: "k1" })).to.deep.equal({
      ...{ secret, version, rotation },
      replayed: true,
    });
    const other = s.rotate({ idempotency_key: "k1", rollback: false });
    expect(await codeOf(other)).to.equal("IDEMPOTENCY_KEY_REUSED");
  });

  it("is taken back where one fails, and whoever may have had the new version is told of the old one", async () => {
    const s = await setup(3);
    const { id } = await s.rotated();
    const [well, ill, never] = s.vms as [string, string, string];
    await s.runs(well);
    await s.runs(ill, failed);
    expect(await s.current()).to.equal(2);
    await s.runs(never, { state: "expired", reason: "delivery_timeout", effect: "none", exit_code: null });
    const back = await s.inState(id, "rolling_back");
    expect(await s.current()).to.equal(1);
    expect(back.follow_ups.filter(({ version }) => version === 1)).to.have.length(2);
    expect(await codeOf(s.rotate())).to.equal("ROTATION_RUNNING");
    await s.runs(well, {}, 2);
    await s.runs(ill, {}, 2);
    const done = await s.inState(id, "rolled_back");
    expect(done.reason).to.equal("follow_up_failed");
    expect(done.follow_ups.map(({ code }) => code).filter((code) => code !== null)).to.have.members([
      "exit_nonzero",
      "delivery_timeout",
    ]);
    expect(s.owners.followUps.accepted.size).to.equal(5);
    expect(await s.gateway.read(s.id)).to.deep.equal({ value: "first" });
    const text = "SELECT action, details FROM audit_events WHERE action LIKE 'secret.ro%' ORDER BY id";
    expect(await inSystem(s.service.database, text)).to.deep.equal([
      { action: "secret.rotated", details: { rotation: id, version: "2" } },
      { action: "secret.rolled-back", details: { rotation: id, reason: "follow_up_failed", version: "1" } },
    ]);
    // The next version is a new one, and counts on.
    expect((await s.rotate({ value: "third", follow_up: false })).secret.version).to.equal(3);
  });

  it("fails where the way back fails too, with the old version current", async () => {
    const s = await setup(1);
    const [vm] = s.vms as [string];
    const { id } = await s.rotated();
    await s.runs(vm, failed);
    await s.runs(vm, failed, 2);
    const done = await s.inState(id, "failed");
    expect(done.reason).to.equal("rollback_failed");
    expect(await s.current()).to.equal(1);
  });

  it("stands where no rollback was asked for: the others are told all the same", async () => {
    const s = await setup(2);
    const { id } = await s.rotated({ rollback: false });
    const [ill, well] = s.vms as [string, string];
    await s.runs(ill, failed);
    await s.runs(well);
    const done = await s.inState(id, "failed");
    expect(done.reason).to.equal("follow_up_failed");
    expect(statesOf(done).sort()).to.deep.equal(["failed", "succeeded"]);
    expect(await s.current()).to.equal(2);
    expect(s.owners.followUps.accepted.size).to.equal(2);
  });

  it("is none where nothing follows, or nothing is to", async () => {
    const s = await setup(1);
    expect((await s.rotate({ follow_up: false })).rotation).to.equal(null);
    const { items } = await s.gateway.as({}, requests.listBindings, { filter: {}, limit: 9 });
    for (const { id } of items) await s.gateway.as(admin, requests.removeBinding, { binding_id: id });
    expect((await s.rotate()).rotation).to.equal(null);
    expect(s.owners.followUps.asked).to.deep.equal([]);
    expect(await s.current()).to.equal(3);
  });

  it("is the only one of its secret, of any number at once, and of the others nothing stays", async () => {
    const s = await setup(1);
    const all = Array.from({ length: 8 }, (_, n) => codeOf(s.rotate({ value: `of ${n}` })));
    const codes = await Promise.all(all);
    expect(codes.filter((code) => code === "none")).to.have.length(1);
    expect(codes.filter((code) => code === "ROTATION_RUNNING")).to.have.length(7);
    await s.passTime("versions", "changed_at");
    await s.sweep();
    const { items } = await s.gateway.as({}, requests.listVersions, { secret_id: s.id, limit: 9 });
    expect(items.map(({ state }) => state)).to.deep.equal(["current", "kept"]);
    const left = await inSystem(s.service.database, "SELECT state FROM versions WHERE state <> 'kept'");
    expect(left).to.deep.equal([]);
  });

  it("gives way to a version that is added meanwhile, on the way there and on the way back", async () => {
    const s = await setup(1);
    const [vm] = s.vms as [string];
    const first = await s.rotated();
    await s.addVersion("newer");
    await s.runs(vm, failed);
    expect((await s.inState(first.id, "failed")).reason).to.equal("superseded");
    expect(await s.current()).to.equal(3);
    s.owners.followUps.accepted.clear();
    const second = await s.rotated();
    await s.runs(vm, failed);
    await s.inState(second.id, "rolling_back");
    expect(await s.current()).to.equal(3);
    await s.addVersion("newest");
    await s.runs(vm, failed, 2);
    expect((await s.inState(second.id, "failed")).reason).to.equal("superseded");
    expect(await s.current()).to.equal(5);
  });

  it("sends nothing more once its secret is deleted", async () => {
    const s = await setup(1);
    s.owners.followUps.answering = () => Promise.reject(new MusterError("VM_QUEUE_FULL"));
    const { id } = await s.rotated();
    await eventually(async () => Promise.resolve(s.owners.followUps.asked.length > 0));
    await s.gateway.as(admin, requests.deleteSecret, { secret_id: s.id });
    await s.passTime("follow_ups", "due_at");
    s.owners.followUps.answering = (_asked, answer) => Promise.resolve(answer());
    await s.sweep();
    const done = await s.inState(id, "failed");
    expect(done.reason).to.equal("superseded");
    expect(statesOf(done)).to.deep.equal(["skipped"]);
    expect(s.owners.followUps.accepted.size).to.equal(0);
  });
});

describe("a follow-up", function () {
  this.timeout(60_000);

  const crashes: Record<string, string> = {
    "before it was sent": "asked = false",
    "before the answer was heard": "asked = true",
  };
  for (const [when, rows] of Object.entries(crashes)) {
    it(`is one command though the process died ${when}`, async () => {
      const s = await setup(1);
      const [vm] = s.vms as [string];
      const { id } = await s.rotated();
      const { commandId } = await s.sent(vm);
      await s.known(commandId);
      const text = `UPDATE follow_ups SET state = 'pending', command_id = NULL, due_at = clock_timestamp(), ${rows}`;
      await inSystem(s.service.database, text);
      await s.sweep();
      expect((await s.read(id)).follow_ups).to.have.nested.property("[0].command_id", commandId);
      expect(s.owners.followUps.accepted.size).to.equal(1);
      expect(s.owners.followUps.asked.length).to.be.greaterThan(1);
      await s.runs(vm);
      await s.inState(id, "succeeded");
    });
  }

  it("is settled though its end was told before it was known whose end it is", async () => {
    const s = await setup(1);
    const heard = uuidv7();
    s.owners.followUps.answering = async (_asked, answer) => {
      const known = answer();
      await s.finish(known.command.id);
      await s.finish(heard);
      const text = "SELECT count(*)::integer AS n FROM inbox";
      await eventuallyHolds(async () => {
        expect(await inSystem(s.service.database, text)).to.deep.equal([{ n: 2 }]);
      });
      return known;
    };
    const { id } = await s.rotated();
    const { commandId } = await s.sent(s.vms[0] ?? "");
    await s.known(commandId);
    expect((await s.read(id)).state).to.equal("running");
    const ended = { reason: "completed", effect: "applied", attempt: 1, late: false } as const;
    s.owners.followUps.answering = (_asked, answer) =>
      Promise.resolve({ ...answer(), ended: { state: "succeeded", ...ended } });
    await s.passTime("follow_ups", "due_at");
    await s.sweep();
    expect((await s.read(id)).state).to.equal("succeeded");
  });

  it("ends once however often that is told, and an older end changes nothing", async () => {
    const s = await setup(2);
    const { id } = await s.rotated();
    const [one, two] = s.vms as [string, string];
    const commandId = await s.runs(one, { state: "expired", reason: "lease_lost", effect: "unknown" });
    await s.finish(commandId, { late: true });
    await s.finish(commandId, { state: "expired", reason: "lease_lost", effect: "unknown" });
    await s.finish(commandId, { late: true });
    await s.runs(two);
    const done = await s.inState(id, "succeeded");
    expect(statesOf(done)).to.deep.equal(["succeeded", "succeeded"]);
    // After the end the truth is written down, and the end stays as it is.
    await s.finish(commandId, { ...failed, attempt: 2 });
    await eventuallyHolds(async () => {
      expect(statesOf(await s.read(id)).sort()).to.deep.equal(["failed", "succeeded"]);
    });
    expect((await s.read(id)).state).to.equal("succeeded");
    expect(await s.current()).to.equal(2);
  });

  const refusing = (code: ErrorCode) => () => Promise.reject(new MusterError(code));

  it("fails with the code that it is refused with for good, and then no other is sent", async () => {
    const s = await setup(1);
    s.owners.followUps.answering = refusing("VM_RETIRED");
    const { id } = await s.rotated();
    const done = await s.inState(id, "rolled_back");
    expect(done.follow_ups).to.have.nested.property("[0].code", "VM_RETIRED");
    expect(done.follow_ups).to.have.length(1);
    expect(await s.current()).to.equal(1);
  });

  it("is sent again while its VM's queue is full, and given up after an hour", async () => {
    const s = await setup(1);
    s.owners.followUps.answering = refusing("VM_QUEUE_FULL");
    const { id } = await s.rotated();
    const asked = (n: number) =>
      eventually(async () => Promise.resolve(s.owners.followUps.asked.length >= n));
    await asked(1);
    await s.passTime("follow_ups", "due_at");
    await s.sweep();
    await asked(2);
    expect(statesOf(await s.read(id))).to.deep.equal(["pending"]);
    await s.passTime("follow_ups", "created_at");
    await s.passTime("follow_ups", "due_at");
    await s.sweep();
    const done = await s.inState(id, "rolled_back");
    expect(done.follow_ups).to.have.nested.property("[0].code", "VM_QUEUE_FULL");
  });

  it("is not skipped while nobody knows whether it was accepted, and then has its way back", async () => {
    const s = await setup(2);
    const [ill, unheard] = s.vms as [string, string];
    s.owners.followUps.answering = (asked, answer) => {
      const known = answer();
      if (asked.command.vm_uuid === unheard) return Promise.reject(new MusterError("DEPENDENCY_UNAVAILABLE"));
      return Promise.resolve(known);
    };
    const { id } = await s.rotated();
    await s.sent(unheard);
    await s.runs(ill, { ...failed, effect: "none" });
    await eventuallyHolds(async () => {
      expect(statesOf(await s.read(id)).sort()).to.deep.equal(["failed", "pending"]);
    });
    expect(await s.current()).to.equal(2);
    s.owners.followUps.answering = (_asked, answer) => Promise.resolve(answer());
    await s.passTime("follow_ups", "due_at");
    await s.sweep();
    await s.runs(unheard);
    const back = await s.inState(id, "rolling_back");
    expect(back.follow_ups.filter(({ version }) => version === 1).map((one) => one.vm_uuid)).to.deep.equal([
      unheard,
    ]);
    await s.runs(unheard, {}, 2);
    await s.inState(id, "rolled_back");
  });

  it("is for a binding that names a VM, and fits its action", async () => {
    const s = await setup(1);
    const follow_up = { action: "exec", params: { program: "" } };
    const refusals: [object, string, string][] = [
      [{ target: { labels: { a: "1" } }, as: { env: "A" } }, "VALIDATION_FAILED", "follow_up"],
      [{ target: { project_id: "shop" }, as: { env: "B" } }, "VALIDATION_FAILED", "follow_up"],
      [{ as: { env: "C" }, follow_up }, "CONTRACT_VIOLATION", "data.binding.follow_up.params.program"],
    ];
    for (const [more, code, path] of refusals) {
      const refusal: unknown = await s.bind(uuidv7(), more).catch((error: unknown) => error);
      expect(refusal).to.include({ code });
      expect(refusal).to.have.nested.property("details[0].path", path);
    }
    const { items } = await s.gateway.as({}, requests.listBindings, { filter: {}, limit: 9 });
    expect(items.map((one) => one.follow_up)).to.deep.equal([
      { action: "exec", params: { program: "reload", args: [] }, timeout_seconds: 30 },
    ]);
  });
});

describe("who may see a rotation", () => {
  it("is every member of its tenant, and nobody else", async () => {
    const s = await setup(1);
    const ids: string[] = [];
    for (const value of ["second", "third"]) {
      const { id } = await s.rotated({ value });
      ids.unshift(id);
      await s.runs(s.vms[0] ?? "");
      await s.inState(id, "succeeded");
      s.owners.followUps.accepted.clear();
    }
    const list = (o: object, who: Who = {}) =>
      s.gateway.as(who, requests.listRotations, { secret_id: s.id, limit: 1, ...o });
    const first = await list({});
    const rest = await list({ cursor: first.next_cursor ?? "" });
    expect([...first.items, ...rest.items].map(({ id }) => id)).to.deep.equal(ids);
    expect(rest.next_cursor).to.equal(null);
    const other: Who = { ...admin, tenant: "bolt" };
    expect(await codeOf(list({}, other))).to.equal("SECRET_NOT_FOUND");
    expect(await codeOf(s.read(ids[0] ?? "", other))).to.equal("ROTATION_NOT_FOUND");
    const elsewhere = { secret_id: uuidv7(), rotation_id: ids[0] ?? "" };
    expect(await codeOf(s.gateway.as({}, requests.getRotation, elsewhere))).to.equal("ROTATION_NOT_FOUND");
  });
});
