import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { loginName } from "@muster/contracts/senders";
import { uuidv7 } from "@muster/contracts/ids";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { ScriptedAgent } from "./scripted-agent.ts";
import { codeOf, setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

const { acceptFollowUp, acceptCommand, getCommand, retireVm } = vmOpsRequests;

describe("a command that follows from what was done elsewhere", function () {
  this.timeout(60_000);
  let s: Setup;
  before(async () => (s = await setup({ env: { MUSTER_VMOPS_VM_WAITING_MAX: "2" } })));
  after(() => s.close());

  const followUp = (vm_uuid: string, more: object = {}) => ({
    ...{ tenant_id: "acme", requested_by: "user:0190aaaa", idempotency_key: uuidv7() },
    command: { vm_uuid, action: "exec" as const, params: { program: "reload" } },
    ...more,
  });
  const ask = (payload: ReturnType<typeof followUp>) => s.ask(acceptFollowUp, payload);

  it("is written with its doorbell and its event, as its principal's, and once for any number that ask", async () => {
    const vm = await s.vm();
    const agent = new ScriptedAgent(s, [vm]);
    await agent.hello();
    const payload = followUp(vm);
    const answers = await Promise.all(Array.from({ length: 10 }, () => ask(payload)));
    const [{ command: accepted } = { command: undefined }] = answers;
    expect(new Set(answers.map(({ command }) => command.id)).size).to.equal(1);
    expect(answers.filter(({ replayed }) => !replayed)).to.have.length(1);
    expect(answers.map(({ ended }) => ended)).to.deep.equal(Array.from({ length: 10 }, () => null));
    const id = accepted?.id ?? "";
    expect(await s.ask(getCommand, { command_id: id })).to.include({
      requested_by: "user:0190aaaa",
      vm_uuid: vm,
    });
    const grant = await agent.granted(id);
    expect(grant.params).to.deep.equal({ program: "reload", args: [] });
    const events = await s.sql<{ n: number }>(
      "SELECT count(*)::integer AS n FROM command_events WHERE command_id = $1 AND rule = 'accepted'",
      [id],
    );
    expect(events).to.deep.equal([{ n: 1 }]);
    expect((await ask(payload)).ended).to.equal(null);
    await agent.result(grant, { outcome: "failed", reason: "exit_nonzero", effect: "unknown" });
    expect(await ask(payload)).to.deep.include({
      replayed: true,
      ended: { state: "failed", reason: "exit_nonzero", effect: "unknown", attempt: 1, late: false },
    });
  });

  it("has a key that no caller's own can be, and is refused for another command under it", async () => {
    const vm = await s.vm();
    const payload = followUp(vm);
    const { idempotency_key } = payload;
    const own = await s.ask(acceptCommand, { command: payload.command, idempotency_key });
    const { command, replayed } = await ask(payload);
    expect(replayed).to.equal(false);
    expect(command.id).to.not.equal(own.command.id);
    const other = { ...payload, command: { ...payload.command, params: { program: "other" } } };
    expect(await codeOf(ask(other))).to.equal("IDEMPOTENCY_KEY_REUSED");
  });

  it("is refused for what no caller could have: another tenant's VM, one that is retired or full, bad params", async () => {
    const vm = await s.vm();
    expect(await codeOf(ask(followUp(vm, { tenant_id: "other" })))).to.equal("VM_NOT_FOUND");
    expect(await codeOf(ask(followUp(uuidv7())))).to.equal("VM_NOT_FOUND");
    const bad = followUp(vm);
    expect(await codeOf(ask({ ...bad, command: { ...bad.command, params: { program: "" } } }))).to.equal(
      "VALIDATION_FAILED",
    );
    for (const code of ["none", "none", "VM_QUEUE_FULL"])
      expect(await codeOf(ask(followUp(vm)))).to.equal(code);
    await s.ask(retireVm, { vm_uuid: vm });
    expect(await codeOf(ask(followUp(vm)))).to.equal("VM_RETIRED");
  });

  it("is accepted from the secrets service alone", async () => {
    const vm = await s.vm();
    for (const service of ["gateway", "reliability", "auth"] as const) {
      const peer = await s.peer(loginName(service));
      const asking = peer.request(
        acceptFollowUp,
        followUp(vm),
        { correlationId: "test" },
        { timeoutMs: 2_000 },
      );
      expect(await codeOf(asking), service).to.not.equal("none");
    }
    expect(await codeOf(ask(followUp(vm)))).to.equal("none");
  });
});
