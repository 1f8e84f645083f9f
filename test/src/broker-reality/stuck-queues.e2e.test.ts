import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { vmQueue } from "@muster/contracts/topology";
import { eventuallyHolds } from "@muster/testing/eventually";
import { ask, ended, inState, shell } from "../following.ts";
import { openSystem, type System } from "../system.ts";
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
    system = await openSystem({ servers });
  });
  after(async () => {
    await system?.close();
    await servers?.remove();
  });

  const repaired = () =>
    metric(system.services["vm-ops"].internalUrl, /^muster_broker_queue_repairs_total\{[^}]*\} (\d+)$/gm);

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
    await eventuallyHolds(async () => expect(await repaired()).to.be.at.least(1), 45_000);
    await eventuallyHolds(async () => {
      expect(await system.logOf("vm-ops")).to.match(/"event":"doorbells_rung_again"[^\n]*"rung":[1-9]/);
    }, 10_000);
    await system.startAgent({ vmUuids: [stuck], name: "stuck" });
    for (const id of [waiting, ...behind]) {
      expect(await ended(system.client, id, 30_000)).to.include({ state: "succeeded", attempt: 1 });
    }
  });
});
