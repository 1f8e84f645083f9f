import { randomUUID } from "node:crypto";
import type { CommandDetail } from "@muster/contracts/commands";
import type { PayloadInputOf, ReplyOf } from "@muster/contracts/define";
import { uuidv7 } from "@muster/contracts/ids";
import { deadLetterRecorded } from "@muster/contracts/reliability";
import { type sweepRules, vmOpsRequests } from "@muster/contracts/vm-ops";
import { loginName } from "@muster/contracts/senders";
import { prepareEvent } from "@muster/broker/prepare";
import { eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { touchLiveness } from "../src/sweeps/liveness.ts";
import { ScriptedAgent } from "./scripted-agent.ts";
import { setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

const { sweepCommands, getCommand, cancelCommand } = vmOpsRequests;
type Rule = (typeof sweepRules)[number];
const hour = "interval '1 hour'";

describe("sweeps", function () {
  this.timeout(60_000);
  let s: Setup;
  before(async () => (s = await setup()));
  after(() => s.close());

  const read = (id: string): Promise<CommandDetail> => s.ask(getCommand, { command_id: id });
  const sweep = (rule: Rule, more: Partial<PayloadInputOf<typeof sweepCommands>> = {}) =>
    s.ask(sweepCommands, {
      ...{ rules: [rule], running_max_ms: 60_000, dispatched_max_ms: 15_000, dispatch_max_requeues: 1 },
      ...{ limit: 500, dry_run: false, ...more },
    });
  const only = (report: ReplyOf<typeof sweepCommands>) => report.rules[0];
  async function ready() {
    const vm = await s.vm();
    const agent = new ScriptedAgent(s, [vm]);
    await agent.hello();
    return { vm, agent };
  }
  async function dispatched(vm: string): Promise<string> {
    const id = await s.exec(vm);
    await eventuallyHolds(async () => expect((await read(id)).state).to.equal("dispatched"));
    return id;
  }
  /** As if all of it had happened an hour ago. */
  async function stale(id: string): Promise<void> {
    await s.sql(`UPDATE commands SET dispatched_at = dispatched_at - ${hour} WHERE id = $1`, [id]);
    await s.sql(`UPDATE agent_sessions SET online_since = now() - ${hour}`);
    await s.sql(`UPDATE liveness SET resumed_at = now() - ${hour}`);
  }
  const age = (id: string, ...columns: string[]) =>
    s.sql(
      `UPDATE commands SET ${columns.map((name) => `${name} = ${name} - ${hour}`).join(", ")} WHERE id = $1`,
      [id],
    );

  it("expires what waited past its time, with no effect", async () => {
    const id = await dispatched(await s.vm());
    await age(id, "expires_at");
    expect(only(await sweep("delivery_timeout"))).to.deep.include({
      ...{ rule: "delivery_timeout", matched: 1, changed: 1, expired: 1, command_ids: [id] },
    });
    expect(await read(id)).to.include({ state: "expired", reason: "delivery_timeout", effect: "none" });
    expect(only(await sweep("delivery_timeout"))).to.include({ matched: 0, changed: 0 });
  });

  it("requeues what an online agent did not claim, with a new doorbell, until requeues are used up", async () => {
    const { vm, agent } = await ready();
    const id = await dispatched(vm);
    expect(only(await sweep("unclaimed"))).to.include({ matched: 0 });
    await stale(id);
    expect(only(await sweep("unclaimed"))).to.include({ changed: 1, requeued: 1 });
    await eventuallyHolds(async () =>
      expect(await read(id)).to.include({ state: "dispatched", attempt: 2, requeues: 1 }),
    );
    expect(await agent.claim(id)).to.equal("superseded");
    await stale(id);
    expect(only(await sweep("unclaimed"))).to.include({ changed: 1, dead_lettered: 1 });
    expect(await read(id)).to.include({
      state: "dead_lettered",
      reason: "dispatch_requeues_exhausted",
      effect: "none",
    });
  });

  it("comes to the same end by the broker's hand", async () => {
    const { vm } = await ready();
    const id = await dispatched(vm);
    const giveUp = async (attempt: number, reason: string): Promise<void> => {
      const payload = {
        ...{ dead_letter_id: uuidv7(), tenant_id: "acme", queue: `vm.acme.${vm}.commands`, reason },
        ...{ type: "vm-ops.vm.doorbell.v1", message_id: "m", at: new Date().toISOString() },
        command: { command_id: id, vm_uuid: vm, attempt, kind: "run" as const },
        dispatch_max_requeues: 1,
      };
      const event = prepareEvent(deadLetterRecorded, payload, { context: { correlationId: "c" } });
      // The same fact twice is one fact.
      await (await s.peer(loginName("reliability"))).publish(event);
      await (await s.peer(loginName("reliability"))).publish(event);
    };
    await giveUp(1, "delivery_limit");
    await eventuallyHolds(async () =>
      expect(await read(id)).to.include({ state: "dispatched", attempt: 2, requeues: 1 }),
    );
    await giveUp(1, "delivery_limit");
    await giveUp(2, "delivery_limit");
    await eventuallyHolds(async () =>
      expect(await read(id)).to.include({
        ...{ state: "dead_lettered", reason: "dispatch_requeues_exhausted", effect: "none", attempt: 2 },
      }),
    );
  });

  it("dead-letters at once what an agent could not read", async () => {
    const { vm } = await ready();
    const id = await dispatched(vm);
    const payload = {
      ...{ dead_letter_id: uuidv7(), tenant_id: "acme", queue: `vm.acme.${vm}.commands`, reason: "rejected" },
      ...{ type: "vm-ops.vm.doorbell.v1", message_id: "m", at: new Date().toISOString() },
      command: { command_id: id, vm_uuid: vm, attempt: 1, kind: "run" as const },
      dispatch_max_requeues: 5,
    };
    await (
      await s.peer(loginName("reliability"))
    ).publish(prepareEvent(deadLetterRecorded, payload, { context: { correlationId: "c" } }));
    await eventuallyHolds(async () =>
      expect(await read(id)).to.include({ state: "dead_lettered", reason: "doorbell_unreadable" }),
    );
  });

  it("burns no requeue of a command whose agent is offline, quarantined, busy, or has just been busy", async () => {
    const { vm, agent } = await ready();
    const running = await agent.granted(await s.exec(vm));
    const id = await dispatched(vm);
    await stale(id);
    expect(only(await sweep("unclaimed"))).to.include({ matched: 0 });
    await agent.result(running);
    expect(only(await sweep("unclaimed"))).to.include({ matched: 0 });
    await age(running.command_id, "finished_at");
    await s.sql("UPDATE agent_sessions SET online = false WHERE agent_id = $1", [agent.agentId]);
    expect(only(await sweep("unclaimed"))).to.include({ matched: 0 });
    const flag =
      "UPDATE agent_sessions SET online = true, quarantined_at = $2, quarantine_reason = $3 WHERE agent_id = $1";
    await s.sql(flag, [agent.agentId, new Date(), "test"]);
    expect(only(await sweep("unclaimed"))).to.include({ matched: 0 });
    await s.sql(flag, [agent.agentId, null, null]);
    const later = await dispatched(vm);
    await stale(later);
    // Only the head of the queue can be claimed.
    expect(only(await sweep("unclaimed"))).to.deep.include({ changed: 1, command_ids: [id] });
  });

  it("goes by the order of acceptance, not by ids, which a clock that jumps puts out of order", async () => {
    const { vm, agent } = await ready();
    const running = await agent.granted(await s.exec(vm));
    const first = await dispatched(vm);
    // As a process would have named it whose clock was far ahead.
    const head = `f${first.slice(1)}`;
    await s.sql("UPDATE commands SET id = $2 WHERE id = $1", [first, head]);
    for (let n = 0; n < 8; n++) await dispatched(vm);
    await stale(head);
    await agent.result(running);
    expect(only(await sweep("unclaimed"))).to.include({ matched: 0 });
    await age(running.command_id, "finished_at");
    expect(only(await sweep("unclaimed"))).to.deep.include({ changed: 1, command_ids: [head] });
  });

  it("expires a lost lease with unknown effect, and lets the result of that claim correct it", async () => {
    const { vm, agent } = await ready();
    const one = await agent.granted(await s.exec(vm));
    expect(only(await sweep("lease_lost"))).to.include({ matched: 0 });
    await age(one.command_id, "lease_renewed_at", "lease_expires_at");
    expect(only(await sweep("lease_lost"))).to.include({ changed: 1, expired: 1 });
    expect(await read(one.command_id)).to.include({
      state: "expired",
      reason: "lease_lost",
      effect: "unknown",
    });
    expect(await agent.progress(one)).to.include({ outcome: "renewed", desired: "run" });
    expect(await agent.result(one)).to.equal("late");
    expect(await agent.result(one)).to.equal("duplicate");
    expect(await read(one.command_id)).to.include({ state: "succeeded", late: true, effect: "applied" });
    const history = await s.ask(vmOpsRequests.listCommandEvents, { command_id: one.command_id, limit: 50 });
    expect(history.items.at(-1)).to.include({ from: "expired", to: "succeeded", reason: "late_result" });
  });

  it("judges no lease during the amnesty after an outage", async () => {
    const { vm, agent } = await ready();
    const grant = await agent.granted(await s.exec(vm));
    await age(grant.command_id, "lease_renewed_at", "lease_expires_at");
    const outage = "UPDATE liveness SET touched_at = now() - interval '10 min', amnesty_until = now()";
    // Nothing has touched it for ten minutes: the outage may still go on.
    await s.sql(outage);
    expect(only(await sweep("lease_lost"))).to.include({ matched: 0 });
    const touched = await s.database.transaction("system", async (tx) => {
      await tx.query(outage);
      return touchLiveness(tx, 90_000);
    });
    expect(touched.outageMs).to.be.within(600_000, 610_000);
    expect(touched.amnestyMs).to.be.within(770_000, 790_000);
    const report = await sweep("lease_lost");
    expect(only(report)).to.include({ matched: 0 });
    expect(report.amnesty_ms).to.be.within(770_000, 790_000);
    await s.sql("UPDATE liveness SET amnesty_until = now()");
    expect(only(await sweep("lease_lost"))).to.include({ matched: 1 });
  });

  it("tells what runs too long to stop, and expires it when it does not", async () => {
    const { vm, agent } = await ready();
    const grant = await agent.granted(await s.exec(vm, { timeout_seconds: 1 }));
    const id = grant.command_id;
    await age(id, "run_until");
    expect(only(await sweep("execution_timeout"))).to.include({ matched: 1, changed: 1, expired: 0 });
    expect(await read(id)).to.include({ state: "running", desired: "cancel", reason: "execution_timeout" });
    expect(await agent.progress(grant)).to.include({ desired: "cancel" });
    expect(only(await sweep("execution_timeout"))).to.include({ matched: 0 });
    await age(id, "cancel_requested_at");
    expect(only(await sweep("execution_timeout"))).to.include({ changed: 1, expired: 1 });
    expect(await read(id)).to.include({ state: "expired", reason: "execution_timeout", effect: "unknown" });
    const stopped = { outcome: "cancelled", reason: "cancelled_while_running", effect: "partial" } as const;
    expect(await agent.result(grant, stopped)).to.equal("late");
    expect(await read(id)).to.include({
      state: "expired",
      reason: "execution_timeout",
      effect: "partial",
      late: true,
    });
  });

  it("calls a command expired, not cancelled, that its agent stopped for its timeout", async () => {
    const { vm, agent } = await ready();
    const grant = await agent.granted(await s.exec(vm, { timeout_seconds: 1 }));
    await age(grant.command_id, "run_until");
    await sweep("execution_timeout");
    const stopped = { outcome: "cancelled", reason: "cancelled_while_running", effect: "partial" } as const;
    expect(await agent.result(grant, stopped)).to.equal("final");
    expect(await read(grant.command_id)).to.include({ state: "expired", reason: "execution_timeout" });
  });

  it("runs again what never started before its time was over, with nobody asking for its end", async () => {
    const { vm, agent } = await ready();
    const grant = await agent.granted(await s.exec(vm, { timeout_seconds: 1 }));
    await age(grant.command_id, "run_until");
    await sweep("execution_timeout");
    expect(await read(grant.command_id)).to.include({ state: "running", desired: "cancel" });
    const never = { outcome: "abandoned", reason: "abandoned", effect: "none" } as const;
    expect(await agent.result(grant, never)).to.equal("final");
    // Not the command's own reason: the doorbell of the second attempt may be confirmed before it is read.
    const history = await s.ask(vmOpsRequests.listCommandEvents, { command_id: grant.command_id, limit: 50 });
    expect(history.items.map(({ reason }) => reason)).to.include("abandoned");
    expect(await read(grant.command_id)).to.include({ attempt: 2, desired: "run" });
    await agent.result(await agent.granted(grant.command_id, { attempt: 2 }));
    expect(await read(grant.command_id)).to.include({ state: "succeeded", attempt: 2 });
  });

  it("ends a cancel that nobody confirms once the agent is gone past its lease, effect unknown", async () => {
    const { vm, agent } = await ready();
    const grant = await agent.granted(await s.exec(vm));
    const id = grant.command_id;
    await s.ask(cancelCommand, { command_id: id });
    await s.sql("UPDATE commands SET cancel_requested_at = now() - interval '4 min' WHERE id = $1", [id]);
    expect(only(await sweep("cancel_unconfirmed"))).to.include({ matched: 0 });
    await age(id, "lease_expires_at");
    expect(only(await sweep("cancel_unconfirmed"))).to.include({ changed: 1 });
    expect(await read(id)).to.include({ state: "cancelled", effect: "unknown" });
    expect(await agent.result(grant)).to.equal("late");
    expect(await read(id)).to.include({ state: "succeeded", late: true });
  });

  it("ends a cancel that its agent never confirms although it renews the lease, once no grace can be so long", async () => {
    const { vm, agent } = await ready();
    const grant = await agent.granted(await s.exec(vm));
    const id = grant.command_id;
    await s.ask(cancelCommand, { command_id: id });
    await age(id, "cancel_requested_at");
    expect(await agent.progress(grant)).to.include({ outcome: "renewed", desired: "cancel" });
    expect(only(await sweep("cancel_unconfirmed"))).to.include({ changed: 1 });
    expect(await read(id)).to.include({ state: "cancelled", effect: "unknown" });
    // Whatever becomes of it is still told, and its agent still hears that it should stop.
    expect(await agent.progress(grant)).to.include({ outcome: "renewed", desired: "cancel" });
    const stopped = { outcome: "cancelled", reason: "cancelled_while_running", effect: "partial" } as const;
    expect(await agent.result(grant, stopped)).to.equal("late");
    expect(await read(id)).to.include({ state: "cancelled", effect: "partial", late: true });
  });

  it("requeues nothing while database and broker were away, nor before agents could ask again", async () => {
    const { vm } = await ready();
    const id = await dispatched(vm);
    await stale(id);
    const awayFor = (time: string) => `UPDATE liveness SET touched_at = now() - interval '${time}'`;
    // Back, and asked to sweep before anybody has noticed that it was away.
    await s.sql(awayFor("20 s"));
    expect(only(await sweep("unclaimed"))).to.include({ matched: 0 });
    await s.database.transaction("system", async (tx) => {
      await tx.query(awayFor("20 s"));
      await touchLiveness(tx, 90_000);
    });
    expect(only(await sweep("unclaimed"))).to.include({ matched: 0 });
    await s.sql("UPDATE liveness SET resumed_at = now() - interval '50 s'");
    expect(only(await sweep("unclaimed"))).to.include({ matched: 0 });
    expect(await read(id)).to.include({ attempt: 1 });
    await s.sql("UPDATE liveness SET resumed_at = now() - interval '61 s'");
    await sweep("unclaimed");
    expect(await read(id)).to.include({ attempt: 2 });
  });

  it("ends what waits for a VM that is gone", async () => {
    const vm = await s.vm();
    const id = await dispatched(vm);
    await s.sql("UPDATE vms SET state = 'retired', retired_at = now() WHERE vm_uuid = $1", [vm]);
    expect(only(await sweep("target_gone"))).to.include({ changed: 1, expired: 1 });
    expect(await read(id)).to.include({ state: "expired", reason: "target_gone", effect: "none" });
  });

  it("changes nothing in a dry run and says what it would do", async () => {
    const vm = await s.vm();
    const ids = [await dispatched(vm), await dispatched(vm), await dispatched(vm)];
    for (const id of ids) await age(id, "expires_at");
    const report = await sweep("delivery_timeout", { dry_run: true });
    expect(only(report)).to.include({ matched: 3, changed: 0, expired: 3 });
    expect(only(await sweep("delivery_timeout", { limit: 2 }))).to.include({ matched: 2, changed: 2 });
    expect((await sweep("delivery_timeout", { limit: 1 })).more).to.equal(true);
    expect(only(await sweep("delivery_timeout"))).to.include({ matched: 0 });
  });

  it("sweeps nothing twice with three sweepers at once, while results come in", async () => {
    const vm = await s.vm({ concurrency: 64 });
    const agent = new ScriptedAgent(s, [vm]);
    await agent.hello();
    const ids = [];
    for (let n = 0; n < 40; n++) ids.push(await s.exec(vm));
    const grants = await Promise.all(ids.map((id) => agent.granted(id).catch(() => agent.granted(id))));
    await s.sql(
      `UPDATE commands SET lease_renewed_at = now() - ${hour}, lease_expires_at = now() - ${hour} WHERE id = ANY ($1)`,
      [ids],
    );
    const replica = await s.replica();
    const [reports, stored] = await Promise.all([
      Promise.all([1, 2, 3].map(() => sweep("lease_lost", { limit: 40 }))),
      Promise.all(grants.map((grant) => agent.result(grant))),
    ]);
    const swept = reports.reduce((sum, report) => sum + (only(report)?.changed ?? 0), 0);
    expect(stored.filter((as) => as === "late")).to.have.length(swept);
    expect(stored.filter((as) => as === "final")).to.have.length(40 - swept);
    const states = await s.sql("SELECT DISTINCT state FROM commands WHERE id = ANY ($1)", [ids]);
    expect(states).to.deep.equal([{ state: "succeeded" }]);
    await replica.close();
  });

  it("ignores a dead letter of an attempt that was claimed or overtaken", async () => {
    const { vm, agent } = await ready();
    const id = await dispatched(vm);
    await agent.granted(id, { nonce: randomUUID() });
    const payload = {
      ...{ dead_letter_id: uuidv7(), tenant_id: "acme", queue: `vm.acme.${vm}.commands`, reason: "rejected" },
      ...{ type: "vm-ops.vm.doorbell.v1", message_id: "m", at: new Date().toISOString() },
      command: { command_id: id, vm_uuid: vm, attempt: 1, kind: "run" as const },
      dispatch_max_requeues: 5,
    };
    const event = prepareEvent(deadLetterRecorded, payload, { context: { correlationId: "c" } });
    await (await s.peer(loginName("reliability"))).publish(event);
    await eventuallyHolds(async () =>
      expect(await s.sql("SELECT 1 FROM inbox WHERE message_id = $1", [event.id])).to.have.length(1),
    );
    expect(await read(id)).to.include({ state: "running", attempt: 1 });
  });
});
