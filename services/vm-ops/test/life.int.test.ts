import { vmQueue } from "@muster/contracts/topology";
import { commandFinished, vmOpsRequests } from "@muster/contracts/vm-ops";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { lockTargets } from "../src/commands/store-accept.ts";
import { emptyResult, ScriptedAgent } from "./scripted-agent.ts";
import { codeOf, setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

const { acceptCommand, getCommand, listCommandEvents, cancelCommand, retireVm } = vmOpsRequests;

describe("the life of a command", function () {
  this.timeout(60_000);
  let s: Setup;
  before(async () => (s = await setup()));
  after(() => s.close());

  const stateOf = async (id: string) => (await s.ask(getCommand, { command_id: id })).state;
  const dispatched = (id: string) => eventually(async () => expect(await stateOf(id)).to.equal("dispatched"));

  it("goes from acceptance by doorbell, claim and result to succeeded, and tells its history", async () => {
    const vm = await s.vm();
    const id = await s.exec(vm);
    await dispatched(id);
    expect(await s.vhost.take(vmQueue("acme", vm))).to.have.length(1);
    const agent = new ScriptedAgent(s, [vm]);
    expect((await agent.hello()).pending.map((bell) => bell.command_id)).to.deep.equal([id]);
    const grant = await agent.granted(id);
    expect(grant).to.include({ action: "exec", attempt: 1, timeout_ms: 3_600_000 });
    expect(grant.params).to.deep.equal({ program: "true", args: [] });
    expect(await stateOf(id)).to.equal("running");
    expect(await agent.result(grant)).to.equal("final");
    const detail = await s.ask(getCommand, { command_id: id });
    expect(detail).to.include({
      state: "succeeded",
      reason: "completed",
      effect: "applied",
      exit_code: 0,
      waiting_for: null,
    });
    expect(detail.result).to.deep.equal(emptyResult);
    const history = await s.ask(listCommandEvents, { command_id: id, limit: 50 });
    expect(history.items.map(({ from, to }) => [from, to])).to.deep.equal([
      [null, "queued"],
      ["queued", "dispatched"],
      ["dispatched", "running"],
      ["running", "succeeded"],
    ]);
  });

  it("keeps a failure with its reason, exit code and honest effect", async () => {
    const vm = await s.vm();
    const agent = new ScriptedAgent(s, [vm]);
    await agent.hello();
    const id = await s.exec(vm);
    const grant = await agent.granted(id);
    const result = { ...emptyResult, exit_code: 3, error: "a \0 and a lone \ud800 are kept" };
    await agent.result(grant, { outcome: "failed", reason: "exit_nonzero", effect: "partial", result });
    const detail = await s.ask(getCommand, { command_id: id });
    expect(detail).to.include({ state: "failed", reason: "exit_nonzero", effect: "partial", exit_code: 3 });
    expect(detail.result).to.deep.equal(result);
  });

  it("answers twenty concurrent requests under one key with one command", async () => {
    const vm = await s.vm();
    const command = { vm_uuid: vm, action: "exec", params: { program: "true" } } as const;
    const replica = await s.replica();
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => s.ask(acceptCommand, { command, idempotency_key: "one" })),
    );
    expect(new Set(answers.map((answer) => answer.command.id)).size).to.equal(1);
    expect(answers.filter((answer) => !answer.replayed)).to.have.length(1);
    expect(new Set(answers.map((answer) => JSON.stringify(answer.command))).size).to.equal(1);
    const id = answers[0]?.command.id ?? "";
    await dispatched(id);
    expect(await s.vhost.take(vmQueue("acme", vm))).to.have.length(1);
    // Later, whatever has become of it, the first answer stands.
    await s.ask(cancelCommand, { command_id: id });
    const again = await s.ask(acceptCommand, { command, idempotency_key: "one" });
    expect(again).to.deep.equal({ command: answers[0]?.command, replayed: true });
    await replica.close();
  });

  it("refuses another body under a used key and names what differs", async () => {
    const vm = await s.vm();
    const command = { vm_uuid: vm, action: "exec", params: { program: "true" } } as const;
    await s.ask(acceptCommand, { command, idempotency_key: "two" });
    const other = { ...command, params: { program: "false" }, timeout_seconds: 5 };
    try {
      await s.ask(acceptCommand, { command: other, idempotency_key: "two" });
      expect.fail("accepted");
    } catch (error) {
      expect(error).to.include({ code: "IDEMPOTENCY_KEY_REUSED" });
      const details = error instanceof Error && "details" in error ? error.details : [];
      expect(details).to.have.deep.members([
        { path: "timeout_seconds", message: "differs from the first request under this key" },
        { path: "params.program", message: "differs from the first request under this key" },
      ]);
    }
    const elsewhere = await s.vm({ tenant: "other" });
    const foreign = { command: { ...command, vm_uuid: elsewhere }, idempotency_key: "two" };
    expect(await codeOf(s.ask(acceptCommand, foreign, { tenant: "other" }))).to.equal("none");
  });

  it("refuses one bad command of a batch without failing the others", async () => {
    const vm = await s.vm();
    const foreign = await s.vm({ tenant: "other" });
    const good = { vm_uuid: vm, action: "exec", params: { program: "true" } } as const;
    const codes = await Promise.all(
      [good, { ...good, params: { program: "" } }, { ...good, vm_uuid: foreign }, good].map((command) =>
        codeOf(s.ask(acceptCommand, { command })),
      ),
    );
    expect(codes).to.deep.equal(["none", "VALIDATION_FAILED", "VM_NOT_FOUND", "none"]);
  });

  it("rings the doorbells of one VM in the order of acceptance", async () => {
    const vm = await s.vm();
    const ids: string[] = [];
    for (let n = 0; n < 20; n++) ids.push(await s.exec(vm));
    await eventually(async () => expect(await stateOf(ids.at(-1) ?? "")).to.equal("dispatched"));
    const rung = (await s.vhost.take(vmQueue("acme", vm), 50)).map(
      ({ payload }) => (JSON.parse(payload) as { data: { command_id: string } }).data.command_id,
    );
    expect(rung).to.deep.equal(ids);
  });

  it("waits with a VM's retirement for what is being accepted for it", async () => {
    const vm = await s.vm();
    const retiring = await s.database.transaction("system", async (tx) => {
      const [locked] = await lockTargets(tx, [{ tenantId: "acme", vmUuid: vm }], "shared");
      expect(locked).to.include({ state: "active" });
      const answer = s.ask(retireVm, { vm_uuid: vm });
      await eventuallyHolds(async () => {
        const waiting = await tx.query(
          "SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))",
        );
        expect(waiting).to.have.length(1);
      });
      // Another batch is not held up.
      expect(await codeOf(s.exec(vm))).to.equal("none");
      return { answer };
    });
    expect(await retiring.answer).to.include({ state: "retired" });
    const left = "SELECT state FROM commands WHERE vm_uuid = $1";
    expect(await s.sql(left, [vm])).to.deep.equal([{ state: "expired" }]);
  });

  it("refuses what no driver of the VM's agent can do, once its drivers are known", async () => {
    const vm = await s.vm();
    const agent = new ScriptedAgent(s, [vm]);
    agent.actions = ["ping"];
    await agent.hello();
    expect(await codeOf(s.exec(vm))).to.equal("ACTION_NOT_SUPPORTED");
    expect(await codeOf(s.exec(vm, { action: "ping", params: {} }))).to.equal("none");
  });

  it("shows no command, event or output to another tenant", async () => {
    const id = await s.exec(await s.vm());
    const other = { tenant: "other" };
    expect(await codeOf(s.ask(getCommand, { command_id: id }, other))).to.equal("COMMAND_NOT_FOUND");
    expect(await codeOf(s.ask(listCommandEvents, { command_id: id, limit: 5 }, other))).to.equal(
      "COMMAND_NOT_FOUND",
    );
    expect(await codeOf(s.ask(vmOpsRequests.readOutput, { command_id: id }, other))).to.equal(
      "COMMAND_NOT_FOUND",
    );
    expect(await codeOf(s.ask(cancelCommand, { command_id: id }, other))).to.equal("COMMAND_NOT_FOUND");
  });

  it("pages through a listing without losing or repeating one", async () => {
    const vm = await s.vm();
    const ids = [];
    for (let n = 0; n < 5; n++) ids.push(await s.exec(vm));
    const seen: string[] = [];
    for (let cursor: string | undefined; ;) {
      const page = await s.ask(vmOpsRequests.listCommands, {
        filter: { vm_uuid: vm },
        limit: 2,
        ...(cursor === undefined ? {} : { cursor }),
      });
      seen.push(...page.items.map((item) => item.id));
      if (page.next_cursor === null) break;
      cursor = page.next_cursor;
    }
    expect(seen).to.deep.equal(ids.reverse());
    const bad = { filter: {}, limit: 2, cursor: "bm9uc2Vuc2U" };
    expect(await codeOf(s.ask(vmOpsRequests.listCommands, bad))).to.equal("CURSOR_INVALID");
  });

  it("says what a waiting command waits for", async () => {
    const vm = await s.vm();
    const first = await s.exec(vm);
    const waits = async (id: string) => (await s.ask(getCommand, { command_id: id })).waiting_for?.code;
    expect(await waits(first)).to.equal("no_agent");
    const agent = new ScriptedAgent(s, [vm]);
    await agent.hello();
    await dispatched(first);
    expect(await waits(first)).to.equal("claim");
    const second = await s.exec(vm);
    expect(await waits(second)).to.equal("earlier_command");
    const grant = await agent.granted(first);
    expect(await waits(first)).to.equal("result");
    expect((await s.ask(getCommand, { command_id: second })).waiting_for?.message).to.include(first);
    await s.ask(cancelCommand, { command_id: first });
    expect(await waits(first)).to.equal("cancel");
    await agent.result(grant, { outcome: "cancelled", reason: "cancelled_while_running", effect: "partial" });
    expect(await waits(first)).to.equal(undefined);
  });

  it("writes every event of a life to the outbox, and they reach who listens", async () => {
    await s.vhost.call("PUT", "/queues/{vhost}/listener", { durable: true });
    await s.vhost.call("POST", "/bindings/{vhost}/e/muster.vm-ops.events/q/listener", { routing_key: "#" });
    const vm = await s.vm();
    const agent = new ScriptedAgent(s, [vm]);
    await agent.hello();
    const id = await s.exec(vm);
    await agent.result(await agent.granted(id));
    const types: string[] = [];
    await eventuallyHolds(async () => {
      for (const { payload } of await s.vhost.take("listener")) {
        const envelope = JSON.parse(payload) as { type: string; subject?: string };
        if (envelope.subject === id) types.push(envelope.type);
      }
      expect(types).to.include(commandFinished.name);
    });
    expect(types).to.deep.equal([
      "vm-ops.command.accepted.v1",
      "vm-ops.command.started.v1",
      "vm-ops.command.finished.v1",
    ]);
    await s.vhost.deleteQueue("listener");
  });
});
