import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { createClient } from "@muster/client/client";
import { uuidv7 } from "@muster/contracts/ids";
import { vmQueue } from "@muster/contracts/topology";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { ask, ended, inState, shell } from "../following.ts";
import { asAdmin } from "../model/facts.ts";
import { openSystem, serviceNames, type System } from "../system.ts";
import { openPrivateServers, type PrivateServers } from "./private-servers.ts";

async function metric(internalUrl: string, line: RegExp): Promise<number> {
  const text = await (await fetch(`${internalUrl}/metrics`)).text();
  return [...text.matchAll(line)].reduce((sum, [, value]) => sum + Number(value), 0);
}

describe("queues that come back from a killed node without a leader", function () {
  this.timeout(120_000);
  let servers: PrivateServers;
  let system: System;

  before(async () => {
    servers = await openPrivateServers();
    system = await openSystem({
      servers,
      env: { reliability: { MUSTER_RELIABILITY_MIRROR_INTERVAL_MS: "1000" } },
    });
  });
  after(async () => {
    try {
      await system?.close();
    } finally {
      await servers?.remove();
    }
  });

  const vmQueuesRepaired = () =>
    metric(system.services["vm-ops"].internalUrl, /^muster_broker_queue_repairs_total\{[^}]*\} (\d+)$/gm);
  const repaired = (queue: string) =>
    metric(
      system.services.reliability.internalUrl,
      new RegExp(`^muster_topology_queues_repaired_total\\{[^}]*queue="${queue}"[^}]*\\} (\\d+)$`, "gm"),
    );

  /** Ids of the messages that a queue's consumer could not read. */
  const keptFrom = (queue: string): Promise<string[]> =>
    asAdmin(system.adminDatabaseUrl, async (admin) => {
      const kept = await admin.query<{ message_id: string }>(
        "SELECT message_id FROM reliability.dead_letters WHERE queue = $1",
        [queue],
      );
      return kept.map(({ message_id }) => message_id);
    });

  it("lets other VMs go on, makes the VM's queue anew, and rings again for what was in it", async () => {
    const [stuck, other] = [await system.registerVm("stuck"), await system.registerVm("other")];
    const waiting = await ask(system.client, shell(stuck, "echo waited"));
    await inState(system.client, waiting, "dispatched");
    await servers.makeLeaderless(system.vhost.name, [vmQueue(system.tenantId, stuck)]);
    // the agent listens in vain until the queue is there again
    await system.startAgent({ vmUuids: [other], name: "other" });
    const behind = [];
    for (let i = 0; i < 5; i++) behind.push(await ask(system.client, shell(stuck, `echo ${i}`)));
    const startedMs = performance.now();
    for (let i = 0; i < 5; i++) {
      const id = await ask(system.client, shell(other, "true"));
      expect(await ended(system.client, id, 5_000)).to.include({ state: "succeeded" });
    }
    expect(performance.now() - startedMs).to.be.below(15_000);
    await eventuallyHolds(async () => expect(await vmQueuesRepaired()).to.be.at.least(1), 45_000);
    await eventuallyHolds(async () => {
      expect(await system.logOf("vm-ops")).to.match(/"event":"doorbells_rung_again"[^\n]*"rung":[1-9]/);
    }, 10_000);
    await system.startAgent({ vmUuids: [stuck], name: "stuck" });
    for (const id of [waiting, ...behind]) {
      expect(await ended(system.client, id, 30_000)).to.include({ state: "succeeded", attempt: 1 });
    }
  });

  it("makes a service's queues anew, and its consumers take up their work by themselves", async () => {
    const vm = await system.registerVm("served");
    await system.startAgent({ vmUuids: [vm], name: "served" });
    const processes = serviceNames.map((name) => system.services[name].pid);
    const queues = ["vm-ops.requests", "vm-ops.agents", "reliability.commands"];
    await servers.makeLeaderless(system.vhost.name, queues);
    // as a kill does: the services come back to queues that answer nothing; the agent has heard of nothing
    for (const name of serviceNames) await system.vhost.closeConnections(name);
    const waiting = ask(system.client, shell(vm, "true"));
    waiting.catch(() => {});
    // those whose queues are well go on meanwhile
    const once = createClient({ baseUrl: system.gatewayUrl, token: system.apiKey, attemptsMax: 1 });
    await eventually(() => once.listAgents(), 10_000);
    for (let i = 0; i < 20; i++) await once.listAgents();
    expect(await repaired("vm-ops.requests")).to.equal(0);
    await eventuallyHolds(async () => {
      for (const queue of queues) expect(await repaired(queue), queue).to.be.at.least(1);
    }, 60_000);
    expect(await system.logOf("reliability")).to.include('"event":"queue_repaired"');
    const id = await waiting;
    expect(await ended(system.client, id, 45_000)).to.include({ state: "succeeded", attempt: 1 });
    const stray = uuidv7();
    await system.vhost.publish({
      routingKey: "reliability.commands",
      properties: { message_id: stray },
      payload: "?",
    });
    await eventuallyHolds(
      async () => expect(await keptFrom("reliability.commands")).to.include(stray),
      30_000,
    );
    for (const service of Object.values(system.services)) await service.ready(5_000);
    expect(serviceNames.map((name) => system.services[name].pid)).to.deep.equal(processes);
  });
});
