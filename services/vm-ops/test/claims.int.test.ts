import { vmQueue } from "@muster/contracts/topology";
import { randomUUID } from "node:crypto";
import { isTerminal } from "@muster/contracts/commands";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import fc from "fast-check";
import { emptyResult, ScriptedAgent } from "./scripted-agent.ts";
import { codeOf, setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

const { getCommand, cancelCommand } = vmOpsRequests;
const stopped = { outcome: "cancelled", reason: "cancelled_while_running", effect: "partial" } as const;

describe("claims, results and cancels", function () {
  this.timeout(120_000);
  let s: Setup;
  before(async () => (s = await setup()));
  after(() => s.close());

  const read = (id: string) => s.ask(getCommand, { command_id: id });
  async function ready(o: { concurrency?: number } = {}) {
    const vm = await s.vm(o);
    const agent = new ScriptedAgent(s, [vm]);
    await agent.hello();
    return { vm, agent };
  }

  it("starts the commands of one VM one by one, in the order of acceptance", async () => {
    const { vm, agent } = await ready();
    const [a, b, c] = [await s.exec(vm), await s.exec(vm), await s.exec(vm)];
    expect(await agent.claim(b)).to.equal("vm_busy");
    const first = await agent.granted(a);
    expect(await agent.claim(b)).to.equal("vm_busy");
    await agent.result(first);
    expect(await agent.claim(c)).to.equal("vm_busy");
    const second = await agent.granted(b);
    await agent.result(second);
    expect(await agent.claim(c)).to.equal("granted");
  });

  it("tells whoever must wait the doorbell of the command that must start first", async () => {
    const { vm, agent } = await ready();
    const [first, second] = [await s.exec(vm), await s.exec(vm)];
    const [denied] = await agent.claims([{ id: second }]);
    expect(denied).to.deep.include({ outcome: "denied", reason: "vm_busy" });
    if (denied?.outcome !== "denied") throw new Error("granted out of order");
    expect(denied.first).to.include({ kind: "run", command_id: first, vm_uuid: vm, attempt: 1, epoch: 1 });
    await agent.granted(first);
    const [busy] = await agent.claims([{ id: second }]);
    expect(busy).to.include({ outcome: "denied", reason: "vm_busy" }).and.not.have.property("first");
  });

  it("runs as many at once as the VM says, also when they are claimed in one message", async () => {
    const { vm, agent } = await ready({ concurrency: 2 });
    const ids = [await s.exec(vm), await s.exec(vm), await s.exec(vm)];
    const outcomes = await agent.claims([...ids].reverse().map((id) => ({ id })));
    expect(outcomes.map((one) => (one.outcome === "denied" ? one.reason : one.outcome))).to.deep.equal([
      "vm_busy",
      "granted",
      "granted",
    ]);
  });

  it("lets the control lane pass what runs and what waits", async () => {
    const { vm, agent } = await ready();
    const work = await s.exec(vm);
    await s.exec(vm);
    await agent.granted(work);
    const ping = await s.exec(vm, { action: "ping", params: {} });
    expect(await agent.claim(ping)).to.equal("granted");
  });

  it("gives the same grant again for the same nonce, and to no other", async () => {
    const { vm, agent } = await ready();
    const id = await s.exec(vm);
    const nonce = randomUUID();
    const first = await agent.granted(id, { nonce });
    expect(await agent.granted(id, { nonce })).to.deep.equal(first);
    expect(await agent.claim(id)).to.equal("superseded");
    expect((await agent.claims([{ id, nonce }, { id }])).map((one) => one.outcome)).to.deep.equal([
      "granted",
      "denied",
    ]);
    const starts = await s.sql(
      "SELECT 1 FROM command_events WHERE command_id = $1 AND to_state = 'running'",
      [id],
    );
    expect(starts).to.have.length(1);
    expect(await s.ask(vmOpsRequests.auditVmOps, {})).to.deep.equal({
      ...{ lost_commands: 0, double_starts: 0, outbox_stale: 0 },
    });
  });

  it("grants one of twenty concurrent claims", async () => {
    const { vm, agent } = await ready();
    const replica = await s.replica();
    const id = await s.exec(vm);
    const answers = await Promise.all(Array.from({ length: 20 }, () => agent.claim(id)));
    expect(answers.filter((answer) => answer === "granted")).to.have.length(1);
    await replica.close();
  });

  it("denies what is over, foreign, expired or of another epoch", async () => {
    const { vm, agent } = await ready();
    const id = await s.exec(vm);
    expect(await agent.claim(id, { attempt: 2 })).to.equal("superseded");
    expect(await agent.claim(id, { epoch: 2 })).to.equal("wrong_epoch");
    expect(await agent.claim(randomUUID())).to.equal("superseded");
    await s.sql("UPDATE commands SET expires_at = now() - interval '1 s' WHERE id = $1", [id]);
    expect(await agent.claim(id)).to.equal("expired");
    const next = await s.exec(vm);
    await s.ask(cancelCommand, { command_id: next });
    expect(await agent.claim(next)).to.equal("cancelled");
    const stranger = new ScriptedAgent(s, [await s.vm()]);
    await stranger.hello();
    expect(await stranger.claim(await s.exec(vm), { vm })).to.equal("superseded");
  });

  it("bounds the params that one reply carries", async () => {
    const { vm, agent } = await ready({ concurrency: 8 });
    const text = "x".repeat(1_000_000);
    const ids = [];
    for (let n = 0; n < 5; n++) ids.push(await s.exec(vm, { action: "script", params: { text } }));
    const outcomes = await agent.claims(ids.map((id) => ({ id })));
    expect(outcomes.map((one) => (one.outcome === "denied" ? one.reason : one.outcome))).to.deep.equal([
      ...["granted", "granted", "granted", "granted"],
      "retry",
    ]);
    expect(outcomes[0]?.outcome === "granted" && outcomes[0].params["text"]).to.equal(text);
  });

  it("stores a repeated result once, and refuses a token that it never gave", async () => {
    const { vm, agent } = await ready();
    const grant = await agent.granted(await s.exec(vm));
    const forged = { ...grant, token: grant.token.replace(/^./, (c) => (c === "A" ? "B" : "A")) };
    expect(await agent.result(forged)).to.equal("refused");
    expect((await agent.progress(forged))?.outcome).to.equal("refused");
    expect((await read(grant.command_id)).state).to.equal("running");
    const answers = await Promise.all([agent.result(grant), agent.result(grant), agent.result(grant)]);
    expect(answers.sort()).to.deep.equal(["duplicate", "duplicate", "final"]);
  });

  it("renews the lease by progress and brings the desired state back", async () => {
    const { vm, agent } = await ready();
    const grant = await agent.granted(await s.exec(vm));
    await s.sql("UPDATE commands SET lease_expires_at = now() WHERE id = $1", [grant.command_id]);
    expect(await agent.progress(grant)).to.deep.include({
      outcome: "renewed",
      desired: "run",
      lease_ms: 90_000,
    });
    const leases = await s.sql<{ left: boolean }>(
      "SELECT lease_expires_at > now() + interval '80 s' AS left FROM commands WHERE id = $1",
      [grant.command_id],
    );
    expect(leases).to.deep.equal([{ left: true }]);
    await s.ask(cancelCommand, { command_id: grant.command_id });
    expect(await agent.progress(grant)).to.include({ desired: "cancel" });
  });

  it("puts an attempt that provably never started back at no cost, and gives up in the end", async () => {
    const { vm, agent } = await ready();
    const id = await s.exec(vm);
    const abandon = { outcome: "abandoned", reason: "abandoned", effect: "none" } as const;
    const first = await agent.granted(id);
    expect(await agent.result(first, abandon)).to.equal("final");
    expect(await agent.result(first, abandon)).to.equal("duplicate");
    expect(await read(id)).to.include({
      attempt: 2,
      requeues: 0,
      effect: "none",
      reason: "doorbell_confirmed",
    });
    for (let attempt = 2; attempt <= 11; attempt++) {
      await agent.result(await agent.granted(id, { attempt }), abandon);
    }
    expect(await read(id)).to.include({ state: "dead_lettered", reason: "abandoned", effect: "none" });
  });

  it("keeps the result of an overtaken attempt as an orphan and changes nothing", async () => {
    const { vm, agent } = await ready();
    const id = await s.exec(vm);
    const first = await agent.granted(id);
    await agent.result(first, { outcome: "abandoned", reason: "abandoned", effect: "none" });
    const second = await agent.granted(id, { attempt: 2 });
    expect(await agent.result(first)).to.equal("orphan");
    expect(await agent.result(first)).to.equal("orphan");
    expect(await read(id)).to.include({ state: "running", attempt: 2 });
    expect(await agent.result(second)).to.equal("final");
    expect(await s.sql("SELECT 1 FROM orphan_results WHERE command_id = $1", [id])).to.have.length(1);
  });

  it("dead-letters a command that killed its agent, and puts it back when an operator says so", async () => {
    const { vm, agent } = await ready();
    const id = await s.exec(vm);
    const poison = { outcome: "poison", reason: "poison", effect: "unknown" } as const;
    const poisoned = { ...emptyResult, exit_code: null, error: "it died twice" };
    await agent.result(await agent.granted(id), { ...poison, result: poisoned });
    expect(await read(id)).to.include({ state: "dead_lettered", reason: "poison", effect: "unknown" });
    const replay = { command_id: id, dead_letter_id: randomUUID() };
    expect(await codeOf(s.ask(vmOpsRequests.replayCommand, replay, { role: "member" }))).to.equal(
      "FORBIDDEN",
    );
    expect(await s.ask(vmOpsRequests.replayCommand, replay)).to.include({ attempt: 2, state: "queued" });
    expect(await codeOf(s.ask(vmOpsRequests.replayCommand, replay))).to.equal("NOT_REPLAYABLE");
    await eventuallyHolds(async () =>
      // What the first attempt may have done is not forgotten.
      expect(await read(id)).to.include({
        state: "dispatched",
        effect: "unknown",
        result: null,
        requeues: 0,
      }),
    );
    await agent.result(await agent.granted(id, { attempt: 2 }), { effect: "none" });
    expect(await read(id)).to.include({ state: "succeeded", effect: "unknown" });
  });

  it("cancels at once before a claim; both of two operators get a truthful answer", async () => {
    const { vm } = await ready();
    const id = await s.exec(vm);
    const codes = await Promise.all([1, 2].map(() => codeOf(s.ask(cancelCommand, { command_id: id }))));
    expect(codes.sort()).to.deep.equal(["TOO_LATE", "none"]);
    expect(await read(id)).to.include({ state: "cancelled", effect: "none", desired: "cancel" });
  });

  it("tells the agent to stop what runs, by a doorbell too, and waits for it to confirm", async () => {
    const { vm, agent } = await ready();
    const grant = await agent.granted(await s.exec(vm));
    const id = grant.command_id;
    const answers = await Promise.all(
      [1, 2].map(() => s.ask(cancelCommand, { command_id: id, note: "\0 why" })),
    );
    expect(answers.map((answer) => answer.outcome)).to.deep.equal(["requested", "requested"]);
    const kinds: string[] = [];
    await eventuallyHolds(async () => {
      for (const { payload } of await s.vhost.take(vmQueue("acme", vm))) {
        kinds.push((JSON.parse(payload) as { data: { kind: string } }).data.kind);
      }
      expect(kinds).to.deep.equal(["run", "cancel"]);
    });
    expect(await agent.result(grant, stopped)).to.equal("final");
    expect(await read(id)).to.include({
      state: "cancelled",
      effect: "partial",
      reason: "cancelled_while_running",
    });
    expect(await codeOf(s.ask(cancelCommand, { command_id: id }))).to.equal("TOO_LATE");
  });

  it("ends in exactly one terminal state in whatever order cancels, claims and results come", async () => {
    const steps = fc.shuffledSubarray([
      "cancel",
      "claim",
      "cancel",
      "result",
      "stopped",
      "progress",
    ] as const);
    await fc.assert(
      fc.asyncProperty(steps, async (order) => {
        const { vm, agent } = await ready();
        const id = await s.exec(vm);
        const nonce = randomUUID();
        const token = async () => (await agent.granted(id, { nonce }).catch(() => undefined)) ?? undefined;
        const act = {
          cancel: () => codeOf(s.ask(cancelCommand, { command_id: id })),
          claim: () => agent.claim(id, { nonce }),
          progress: async () => token().then((grant) => grant && agent.progress(grant)),
          result: async () => token().then((grant) => grant && agent.result(grant)),
          stopped: async () => token().then((grant) => grant && agent.result(grant, stopped)),
        };
        await Promise.all(order.map((step) => act[step]()));
        const events = await s.sql<{ to_state: string }>(
          "SELECT to_state FROM command_events WHERE command_id = $1 ORDER BY id",
          [id],
        );
        const ends = events.filter(({ to_state }) => isTerminal(to_state as "failed"));
        const { state } = await read(id);
        expect(ends).to.have.length(isTerminal(state) ? 1 : 0);
        if (ends[0] !== undefined) expect(ends[0].to_state).to.equal(state);
      }),
      { numRuns: 25 },
    );
  });
});
