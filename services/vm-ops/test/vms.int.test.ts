import { vmQueue } from "@muster/contracts/topology";
import { fileURLToPath } from "node:url";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { uuidv7 } from "@muster/contracts/ids";
import { migrate } from "@muster/database/migrate";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { ScriptedAgent } from "./scripted-agent.ts";
import { codeOf, logger, setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

const { registerVm, getVm, listVms, updateVm, retireVm, getCommand, acceptCommand } = vmOpsRequests;

describe("VMs", function () {
  this.timeout(60_000);
  let s: Setup;
  before(async () => (s = await setup({ env: { MUSTER_VMOPS_VM_WAITING_MAX: "10" } })));
  after(() => s.close());

  const queue = (vm: string) => vmQueue("acme", vm);

  it("registers a VM with its durable queue; the same key gets the first answer", async () => {
    const vm_uuid = uuidv7();
    const request = { vm: { vm_uuid, name: "web \u{1f5a5}", labels: { role: "web" } }, idempotency_key: "k" };
    const first = await s.ask(registerVm, request);
    expect(first).to.deep.include({ replayed: false });
    expect(await s.broker.queueExists(queue(vm_uuid))).to.equal(true);
    await s.ask(updateVm, { vm_uuid, change: { name: "changed" } });
    expect(await s.ask(registerVm, request)).to.deep.equal({ vm: first.vm, replayed: true });
    const other = { ...request, vm: { ...request.vm, name: "db" } };
    expect(await codeOf(s.ask(registerVm, other))).to.equal("IDEMPOTENCY_KEY_REUSED");
    expect(await codeOf(s.ask(registerVm, { vm: request.vm }))).to.equal("VM_ALREADY_REGISTERED");
    expect(await codeOf(s.ask(registerVm, { vm: request.vm }, { tenant: "other" }))).to.equal("none");
    expect(await codeOf(s.ask(registerVm, request, { role: "member" }))).to.equal("FORBIDDEN");
  });

  it("lists by labels and state, newest first, page by page", async () => {
    const tenant = "lister";
    const ids: string[] = [];
    for (let n = 0; n < 5; n++)
      ids.push(await s.vm({ tenant, labels: { role: n === 2 ? "db" : "web", n: `${n}` } }));
    const seen: string[] = [];
    for (let cursor: string | undefined; ;) {
      const filter = { labels: { role: "web" }, state: "active" as const, limit: 2 };
      const page = await s.ask(
        listVms,
        { ...filter, ...(cursor === undefined ? {} : { cursor }) },
        { tenant },
      );
      seen.push(...page.items.map((vm) => vm.vm_uuid));
      if (page.next_cursor === null) break;
      cursor = page.next_cursor;
    }
    expect(seen).to.deep.equal([ids[4], ids[3], ids[1], ids[0]]);
    expect((await s.ask(listVms, { limit: 10 }, { tenant: "nobody" })).items).to.deep.equal([]);
  });

  it("ends what waits, stops what runs, and removes the queue of a VM that retires", async () => {
    const vm = await s.vm();
    const agent = new ScriptedAgent(s, [vm]);
    await agent.hello();
    const grant = await agent.granted(await s.exec(vm));
    const waiting = await s.exec(vm);
    const retired = await s.ask(retireVm, { vm_uuid: vm });
    expect(retired).to.include({ state: "retired", epoch: 2 });
    expect(await s.ask(retireVm, { vm_uuid: vm })).to.deep.equal(retired);
    const read = (id: string) => s.ask(getCommand, { command_id: id });
    expect(await read(waiting)).to.include({ state: "expired", reason: "target_gone", effect: "none" });
    expect(await read(grant.command_id)).to.include({ state: "running", desired: "cancel" });
    expect(await agent.claim(waiting)).to.equal("expired");
    expect(await codeOf(s.exec(vm))).to.equal("VM_RETIRED");
    expect(await codeOf(s.ask(updateVm, { vm_uuid: vm, change: { name: "x" } }))).to.equal("VM_RETIRED");
    const stopped = { outcome: "cancelled", reason: "cancelled_while_running", effect: "partial" } as const;
    expect(await agent.result(grant, stopped)).to.equal("final");
    expect(await read(grant.command_id)).to.include({ state: "cancelled", reason: "target_gone" });
    // Nothing runs any more: the next look removes the queue.
    await s.ask(retireVm, { vm_uuid: vm });
    await eventually(async () => !(await s.broker.queueExists(queue(vm))));
    expect((await agent.hello()).vms).to.deep.equal([]);
  });

  it("makes a queue again that was deleted by hand, and delivers what found none", async () => {
    const vm = await s.vm();
    await s.vhost.deleteQueue(queue(vm));
    const id = await s.exec(vm);
    await eventuallyHolds(async () =>
      expect((await s.ask(getCommand, { command_id: id })).state).to.equal("dispatched"),
    );
    expect(await s.vhost.take(queue(vm))).to.have.length(1);
  });

  it("makes every active VM's queue again when it starts", async () => {
    const vm = await s.vm();
    await s.vhost.deleteQueue(queue(vm));
    const replica = await s.replica();
    await eventually(() => s.broker.queueExists(queue(vm)));
    await replica.close();
  });

  it("accepts no more for a VM than may wait, to the command, also from two sides at once", async () => {
    const vm = await s.vm();
    const replica = await s.replica();
    const command = { vm_uuid: vm, action: "exec", params: { program: "true" } } as const;
    const codes = await Promise.all(
      Array.from({ length: 30 }, () => codeOf(s.ask(acceptCommand, { command }))),
    );
    expect(codes.filter((code) => code === "none")).to.have.length(10);
    expect(codes.filter((code) => code === "VM_QUEUE_FULL")).to.have.length(20);
    await replica.close();
  });

  it("never changes or forgets a command's history", async () => {
    await s.exec(await s.vm());
    for (const text of [
      "UPDATE command_events SET reason = 'x'",
      "DELETE FROM command_events",
      "TRUNCATE command_events",
    ]) {
      expect(await codeOf(s.sql(text))).to.match(/permission denied/);
    }
  });

  it("migrates to the same schema however often it is run", async () => {
    const migrated = await migrate({
      ...{
        adminUrl: s.postgres.adminUrl,
        schema: "vm_ops",
        role: "vm_ops",
        password: "test-only-vm_ops",
        logger,
      },
      directory: fileURLToPath(new URL("../../migrations", import.meta.url)),
    });
    expect(migrated.applied).to.deep.equal([]);
  });

  it("reads one VM, and none of another tenant", async () => {
    const vm_uuid = await s.vm({ concurrency: 3 });
    expect(await s.ask(getVm, { vm_uuid })).to.include({
      vm_uuid,
      state: "active",
      epoch: 1,
      concurrency: 3,
      agent: null,
    });
    expect(await codeOf(s.ask(getVm, { vm_uuid }, { tenant: "other" }))).to.equal("VM_NOT_FOUND");
    const change = { vm_uuid, change: { name: "mine" } };
    expect(await codeOf(s.ask(updateVm, change, { tenant: "other" }))).to.equal("VM_NOT_FOUND");
    expect(await codeOf(s.ask(retireVm, { vm_uuid }, { tenant: "other" }))).to.equal("VM_NOT_FOUND");
  });
});
