import { vmQueue } from "@muster/contracts/topology";
import { readFile } from "node:fs/promises";
import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { MusterError } from "@muster/contracts/errors";
import { eventuallyHolds } from "@muster/testing/eventually";
import { ask, ended, historyOf, inState, outputOf, shell } from "./following.ts";
import { openSystem, type System } from "./system.ts";

const fast = {
  reliability: { MUSTER_RELIABILITY_SWEEP_INTERVAL_MS: "1000", MUSTER_RELIABILITY_HEARTBEAT_MS: "2000" },
};

describe("when parts of the system die", function () {
  this.timeout(120_000);
  let system: System;

  before(async () => {
    system = await openSystem({ env: fast });
  });
  after(async () => await system?.close());

  it("finishes once what runs while its agent is killed and started again", async () => {
    const vm = await system.registerVm();
    const agent = await system.startAgent({ vmUuids: [vm] });
    const mark = `${system.folder}/started-${vm}`;
    const id = await ask(system.client, shell(vm, `echo x >> ${mark}; sleep 4; wc -l < ${mark}; exit 7`));
    await eventuallyHolds(async () => await readFile(mark));
    await agent.process.stop("SIGKILL");
    agent.process.start();
    const command = await ended(system.client, id, 60_000);
    expect(command).to.include({ state: "failed", reason: "exit_nonzero", exit_code: 7, attempt: 1 });
    expect((await outputOf(system.client, id)).stdout.toString().trim()).to.equal("1");
  });

  it("starts once, whenever between doorbell and result its agent is killed", async () => {
    const vm = await system.registerVm("killed at random", 4);
    const agent = await system.startAgent({ vmUuids: [vm] });
    const mark = `${system.folder}/once-${vm}`;
    const ids = [];
    for (let i = 0; i < 12; i++) {
      ids.push(await ask(system.client, shell(vm, `echo ${i} >> ${mark}`)));
      if (i % 4 !== 3) continue;
      await agent.process.stop("SIGKILL");
      agent.process.start();
    }
    for (const id of ids) expect(await ended(system.client, id, 60_000)).to.include({ state: "succeeded" });
    const starts = (await readFile(mark, "utf8")).trim().split("\n").map(Number);
    expect(starts.sort((a, b) => a - b)).to.deep.equal(ids.map((_, i) => i));
  });

  it("keeps a result while the broker's connections are cut again and again", async () => {
    const vm = await system.registerVm();
    await system.startAgent({ vmUuids: [vm] });
    const ids = [];
    for (let i = 0; i < 20; i++) {
      ids.push(await ask(system.client, shell(vm, `echo ${i}`)));
      if (i % 5 === 4) await system.vhost.closeConnections("");
    }
    for (const [i, id] of ids.entries()) {
      expect(await ended(system.client, id, 60_000)).to.include({ state: "succeeded" });
      expect((await outputOf(system.client, id)).stdout.toString()).to.equal(`${i}\n`);
    }
  });

  for (const victim of ["vm-ops", "gateway", "auth", "reliability", "secrets"] as const) {
    it(`loses nothing and starts nothing twice when ${victim} is killed under load`, async () => {
      const vm = await system.registerVm(victim, 8);
      await system.startAgent({ vmUuids: [vm] });
      const mark = `${system.folder}/starts-${victim}`;
      const accepted = new Map<string, string>();
      const sender = (async () => {
        for (let i = 0; i < 60; i++) {
          const name = `${victim}-${i}`;
          // The client keeps the same Idempotency-Key over its retries.
          accepted.set(name, await ask(system.client, shell(vm, `echo ${name} >> ${mark}`)));
        }
      })();
      await eventuallyHolds(() => expect(accepted.size).to.be.at.least(15), 30_000);
      await system.services[victim].stop("SIGKILL");
      system.services[victim].start();
      await system.services[victim].ready();
      await sender;
      for (const id of accepted.values()) {
        expect(await ended(system.client, id, 60_000)).to.include({ state: "succeeded" });
      }
      const starts = (await readFile(mark, "utf8")).trim().split("\n").sort();
      expect(starts).to.deep.equal([...accepted.keys()].sort());
    });
  }

  it("answers only retriable errors while every service is restarted in turn", async () => {
    const vm = await system.registerVm("rolling", 8);
    await system.startAgent({ vmUuids: [vm] });
    const refusals: string[] = [];
    let running = true;
    const load = (async () => {
      const ids = [];
      while (running) {
        try {
          ids.push(await ask(system.client, shell(vm, "true")));
        } catch (error) {
          refusals.push(error instanceof MusterError ? error.code : String(error));
        }
      }
      return ids;
    })();
    for (const process of Object.values(system.services)) {
      expect(await process.stop("SIGTERM"), `${process.name} exits cleanly`).to.equal(0);
      process.start();
      await process.ready();
    }
    running = false;
    const ids = await load;
    expect(refusals).to.deep.equal([]);
    for (const id of ids) expect(await ended(system.client, id, 60_000)).to.include({ state: "succeeded" });
  });

  it("declares a VM's queue again that was deleted by hand, and delivers what waited", async () => {
    const vm = await system.registerVm();
    const queue = vmQueue(system.tenantId, vm);
    const before = await ask(system.client, shell(vm, "echo before"));
    await inState(system.client, before, "dispatched");
    await system.vhost.deleteQueue(queue);
    const next = await ask(system.client, shell(vm, "echo next"));
    await system.startAgent({ vmUuids: [vm] });
    for (const id of [before, next])
      expect(await ended(system.client, id)).to.include({ state: "succeeded" });
  });

  it("lets the newest of two agents with one identity win", async () => {
    const vm = await system.registerVm();
    const first = await system.startAgent({ vmUuids: [vm], name: "first" });
    const second = await system.startAgent({ vmUuids: [vm], agentId: first.agentId, name: "second" });
    await eventuallyHolds(() => expect(first.process.ended).to.equal(true), 60_000);
    expect(await first.process.stop()).to.equal(75);
    const id = await ask(system.client, shell(vm, "true"));
    expect(await ended(system.client, id)).to.include({ state: "succeeded" });
    expect(second.process.ended).to.equal(false);
  });

  it("takes up what waited when its agent comes, in the order of acceptance", async () => {
    const vm = await system.registerVm();
    const mark = `${system.folder}/order`;
    const ids = [];
    for (let i = 0; i < 10; i++) ids.push(await ask(system.client, shell(vm, `echo ${i} >> ${mark}`)));
    await system.startAgent({ vmUuids: [vm] });
    for (const id of ids) await ended(system.client, id);
    expect((await readFile(mark, "utf8")).trim().split("\n")).to.deep.equal(
      Array.from({ length: 10 }, (_, i) => String(i)),
    );
    expect(await historyOf(system.client, ids[9]!)).to.have.length(4);
  });
});
