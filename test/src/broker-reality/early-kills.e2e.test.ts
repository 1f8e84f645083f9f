import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { ask, ended, shell } from "../following.ts";
import { openSystem, type System } from "../system.ts";
import { openPrivateServers, type PrivateServers } from "./private-servers.ts";

describe("a broker that is killed as soon as queues were declared", function () {
  this.timeout(180_000);
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

  it("again and again, loses no accepted command, and starts each once", async () => {
    const marks = join(system.folder, "marks");
    const all: Promise<{ vm: string; id: string }>[] = [];
    // where the kill comes: at a round's first VM, at its first command, when all of it is accepted
    for (const moment of ["registered", "accepted", "all"] as const) {
      const reached = { registered: () => {}, accepted: () => {} };
      const first = {
        registered: new Promise<void>((resolve) => (reached.registered = resolve)),
        accepted: new Promise<void>((resolve) => (reached.accepted = resolve)),
      };
      const round = Array.from({ length: 8 }, async (_, i) => {
        const vm = await system.registerVm(`${moment} ${i}`);
        reached.registered();
        const id = await ask(system.client, shell(vm, `echo ${moment}-${i} >> ${marks}`));
        reached.accepted();
        return { vm, id };
      });
      all.push(...round);
      await (moment === "all" ? Promise.all(round) : first[moment]);
      await servers.killAndStartBroker();
    }
    const asked = await Promise.all(all);
    const ids = asked.map(({ id }) => id);
    await system.startAgent({ vmUuids: asked.map(({ vm }) => vm) });
    for (const id of ids) {
      expect(await ended(system.client, id, 60_000)).to.include({ state: "succeeded", attempt: 1 });
    }
    const started = (await readFile(marks, "utf8")).trim().split("\n");
    expect(started).to.have.length(ids.length);
    expect(new Set(started).size).to.equal(ids.length);
  });
});
