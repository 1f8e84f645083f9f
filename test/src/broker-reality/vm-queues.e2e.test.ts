import { readFile } from "node:fs/promises";
import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { createMetrics } from "@muster/telemetry/metrics";
import { openLogger } from "@muster/telemetry/logger";
import { openBroker, type Broker } from "@muster/broker/broker";
import { vmQueue } from "@muster/contracts/topology";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { ask, ended, historyOf, inState, outputOf, shell } from "../following.ts";
import { openSystem, type RunningAgent, type System } from "../system.ts";

const lengthMax = 100;

function settings(type: "quorum" | "classic") {
  const shared = { MUSTER_VM_QUEUE_TYPE: type };
  return {
    "vm-ops": shared,
    reliability: {
      ...shared,
      MUSTER_VM_QUEUE_LENGTH_MAX: String(lengthMax),
      MUSTER_RELIABILITY_SWEEP_INTERVAL_MS: "1000",
      MUSTER_RELIABILITY_HEARTBEAT_MS: "1000",
      MUSTER_VMOPS_DISPATCHED_MAX_MS: "15000",
      MUSTER_VMOPS_DISPATCH_MAX_REQUEUES: "1",
    },
  };
}

/** A consumer that is not an agent, with the rights of everybody: takes deliveries and dies. */
async function openStranger(system: System): Promise<Broker> {
  return await openBroker({
    url: system.amqpUrl,
    name: "stranger",
    logger: openLogger({ service: "stranger", level: "silent" }),
    metrics: createMetrics({ service: "stranger" }),
    drainTimeoutMs: 100,
  });
}

for (const type of ["quorum", "classic"] as const) {
  describe(`with ${type} queues for VMs`, function () {
    this.timeout(120_000);
    let system: System;

    before(async () => {
      system = await openSystem({ env: settings(type) });
    });
    after(async () => await system?.close());

    it("runs a command with its output, cancels a waiting and a running one", async () => {
      const vm = await system.registerVm();
      const waiting = await ask(system.client, shell(vm, "true"));
      await inState(system.client, waiting, "dispatched");
      await system.client.cancelCommand({ params: { id: waiting }, body: {} });
      expect(await ended(system.client, waiting)).to.include({ state: "cancelled" });
      await system.startAgent({ vmUuids: [vm] });
      const { arguments: given } = (await system.vhost.call(
        "GET",
        `/queues/{vhost}/${vmQueue(system.tenantId, vm)}`,
      )) as { arguments: Record<string, unknown> };
      expect(given).to.deep.equal({ "x-queue-type": type, "x-single-active-consumer": true });
      const id = await ask(system.client, shell(vm, "echo out; echo err >&2; exit 3"));
      expect(await ended(system.client, id)).to.include({ state: "failed", exit_code: 3, attempt: 1 });
      const output = await outputOf(system.client, id);
      expect([output.stdout.toString(), output.stderr.toString()]).to.deep.equal(["out\n", "err\n"]);
      const long = await ask(system.client, shell(vm, "sleep 60"));
      await inState(system.client, long, "running");
      await system.client.cancelCommand({ params: { id: long }, body: {} });
      expect(await ended(system.client, long)).to.include({ state: "cancelled" });
    });

    it("requeues what an online agent leaves, then dead-letters it, and runs it once when replayed", async () => {
      const vm = await system.registerVm();
      const agent = await system.startAgent({ vmUuids: [vm] });
      agent.process.signal("SIGSTOP");
      const id = await ask(system.client, shell(vm, "echo late"));
      try {
        await inState(system.client, id, "dead_lettered", 60_000);
      } finally {
        agent.process.signal("SIGCONT");
      }
      expect(await historyOf(system.client, id)).to.include("dispatched>queued:unclaimed");
      const letter = await eventually(async () => {
        const { data } = await system.client.listDeadLetters({ query: { state: "open", kind: "command" } });
        const found = data.dead_letters.find((known) => known.command_id === id);
        if (found === undefined) throw new Error("no dead letter yet");
        return found;
      }, 15_000);
      await system.client.replayDeadLetter({ params: { id: letter.id } });
      expect(await ended(system.client, id, 60_000)).to.include({ state: "succeeded" });
      expect((await outputOf(system.client, id)).stdout.toString()).to.equal("late\n");
    });

    it("goes on for others while one VM's queue is full, and loses nothing when there is room again", async () => {
      const [full, other] = [await system.registerVm("full"), await system.registerVm("other", 4)];
      const queue = vmQueue(system.tenantId, full);
      // The limit is soft: fill until the broker refuses.
      const refused = /Check queue limits/;
      await eventually(async () => {
        try {
          for (let i = 0; i < 50; i++) await system.vhost.publish({ routingKey: queue, payload: "fill" });
          return false;
        } catch (error) {
          if (refused.test(String(error))) return true;
          throw error;
        }
      }, 30_000);
      const held = [];
      for (let i = 0; i < 3; i++) held.push(await ask(system.client, shell(full, `echo ${i}`)));
      await system.startAgent({ vmUuids: [other], name: "other" });
      // longer than the age at which an outbox that stands still turns callers away
      const untilMs = performance.now() + 18_000;
      while (performance.now() < untilMs) {
        const id = await ask(system.client, shell(other, "sleep 0.5"));
        expect(await ended(system.client, id, 5_000)).to.include({ state: "succeeded" });
      }
      await inState(system.client, held[0]!, "queued");
      await system.startAgent({ vmUuids: [full], name: "full" });
      for (const id of held)
        expect(await ended(system.client, id, 60_000)).to.include({ state: "succeeded" });
    });

    it("bounds a storm of redeliveries and loses nothing of what it carried", async () => {
      const vm = await system.registerVm("storm", 8);
      const ids: string[] = [];
      for (let i = 0; i < 60; i++) ids.push(await ask(system.client, shell(vm, "true")));
      await inState(system.client, ids.at(-1)!, "dispatched");
      let deliveries = 0;
      for (let life = 0; life < 6; life++) {
        const before = deliveries;
        const stranger = await openStranger(system);
        await stranger.consume(vmQueue(system.tenantId, vm), { prefetch: 500 }, () => (deliveries += 1));
        // what exceeded its limit does not come any more
        await eventuallyHolds(
          () => expect(deliveries - before).to.be.at.least(life < 2 || type === "classic" ? ids.length : 0),
          10_000,
        );
        await system.vhost.closeConnections("stranger");
        await stranger.close();
      }
      // delivery limit 1: the first delivery and one more each, for the doorbell and for that of its requeue
      if (type === "quorum") expect(deliveries).to.be.at.most(ids.length * 4);
      await system.startAgent({ vmUuids: [vm], name: "calm" });
      const dead: string[] = [];
      for (const id of ids) {
        const command = await ended(system.client, id, 60_000);
        if (command.state === "dead_lettered") dead.push(id);
        else expect(command).to.include({ state: "succeeded" });
      }
      const letters = await system.client.listDeadLetters({
        query: { state: "open", kind: "command", limit: 100 },
      });
      const known = new Set(letters.data.dead_letters.map((letter) => letter.command_id));
      for (const id of dead) expect(known.has(id), `${id} is told to people`).to.equal(true);
    });

    it("starts once whatever a flapping agent and its double do; the newest session wins", async () => {
      const vm = await system.registerVm("flapping", 2);
      const mark = `${system.folder}/flap-${type}`;
      const one: RunningAgent = await system.startAgent({ vmUuids: [vm], name: `one-${type}` });
      const ids: string[] = [];
      for (let flap = 0; flap < 4; flap++) {
        ids.push(await ask(system.client, shell(vm, `echo ${flap} >> ${mark}`)));
        await one.process.stop("SIGKILL");
        one.process.start();
      }
      for (const id of ids) expect(await ended(system.client, id, 60_000)).to.include({ state: "succeeded" });
      const two = await system.startAgent({ vmUuids: [vm], agentId: one.agentId, name: `two-${type}` });
      await eventuallyHolds(() => expect(one.process.ended).to.equal(true), 60_000);
      for (let flap = 4; flap < 8; flap++)
        ids.push(await ask(system.client, shell(vm, `echo ${flap} >> ${mark}`)));
      for (const id of ids) expect(await ended(system.client, id, 60_000)).to.include({ state: "succeeded" });
      expect(two.process.ended).to.equal(false);
      const starts = (await readFile(mark, "utf8")).trim().split("\n").map(Number);
      expect(starts.sort((a, b) => a - b)).to.deep.equal(ids.map((_, i) => i));
    });
  });
}
