import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { type MusterError } from "@muster/contracts/errors";
import { vmQueue } from "@muster/contracts/topology";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { ask, ended, historyOf, inState, outputOf, shell } from "./following.ts";
import { openSystem, type RunningAgent, type System } from "./system.ts";

const settings = {
  MUSTER_RELIABILITY_SWEEP_INTERVAL_MS: "1000",
  MUSTER_RELIABILITY_AUDIT_INTERVAL_MS: "1000",
  MUSTER_VMOPS_DISPATCHED_MAX_MS: "15000",
  MUSTER_VMOPS_DISPATCH_MAX_REQUEUES: "1",
};

describe("what goes wrong, from the sweep or the broker to an operator's replay", function () {
  this.timeout(120_000);
  let system: System;
  let vm: string;
  let agent: RunningAgent;

  before(async () => {
    system = await openSystem({ env: { reliability: settings } });
    vm = await system.registerVm();
    agent = await system.startAgent({ vmUuids: [vm], name: "agent" });
  });
  after(async () => {
    agent?.process.signal("SIGCONT");
    await system?.close();
  });

  const openLetters = async (kind: "message" | "command") =>
    (await system.client.listDeadLetters({ query: { state: "open", kind } })).data.dead_letters;

  it("dead-letters a command that an online agent never claims, and runs it once when it is replayed", async () => {
    agent.process.signal("SIGSTOP");
    const id = await ask(system.client, shell(vm, "echo late but once"));
    await inState(system.client, id, "dead_lettered", 90_000);
    expect(await historyOf(system.client, id)).to.include.members([
      "dispatched>queued:unclaimed",
      "dispatched>dead_lettered:dispatch_requeues_exhausted",
    ]);
    const letter = await eventually(
      async () => (await openLetters("command")).find((known) => known.command_id === id),
      15_000,
    );
    expect(letter).to.include({ reason: "dispatch_requeues_exhausted", vm_uuid: vm });

    agent.process.signal("SIGCONT");
    const params = { id: letter.id };
    const both = await Promise.allSettled([1, 2].map(() => system.client.replayDeadLetter({ params })));
    expect(both.filter(({ status }) => status === "fulfilled")).to.have.length(1);
    const refused = both.find((one) => one.status === "rejected");
    expect((refused?.reason as MusterError).code).to.equal("NOT_REPLAYABLE");
    expect(await ended(system.client, id, 60_000)).to.include({ state: "succeeded", effect: "applied" });
    expect((await outputOf(system.client, id)).stdout.toString()).to.equal("late but once\n");
    const settled = (await system.client.getDeadLetter({ params })).data.dead_letter;
    expect(settled.state).to.equal("replayed");
    expect(settled.audit.map(({ action }) => action)).to.include("replayed");
  });

  it("keeps a foreign message from a VM's queue, which an operator discards with a reason", async () => {
    await system.vhost.publish({ routingKey: vmQueue(system.tenantId, vm), payload: "not ours" });
    const letter = await eventually(async () => (await openLetters("message"))[0], 15_000);
    expect(letter).to.include({ reason: "rejected", vm_uuid: vm, type: "" });
    const params = { id: letter.id };
    const { data } = await system.client.discardDeadLetter({ params, body: { reason: "not ours" } });
    expect(data.dead_letter).to.include({ state: "discarded", settle_reason: "not ours" });
    const id = await ask(system.client, shell(vm, "true"));
    expect(await ended(system.client, id)).to.include({ state: "succeeded" });
  });

  it("counts nothing that must be 0", async () => {
    await eventuallyHolds(async () => {
      const metrics = await (await fetch(`${system.services.reliability.internalUrl}/metrics`)).text();
      const audits = [...metrics.matchAll(/^muster_audit\{[^}]*audit="([^"]+)"[^}]*\} (\S+)$/gm)];
      expect(Object.fromEntries(audits.map(([, name, value]) => [name, Number(value)]))).to.deep.equal({
        lost_commands: 0,
        double_starts: 0,
        outbox_stale: 0,
      });
    }, 20_000);
  });
});
