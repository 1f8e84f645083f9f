import { appendFile } from "node:fs/promises";
import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { openSystem, type System } from "../system.ts";
import { asAdmin } from "./facts.ts";
import { openModel, type Model } from "./model.ts";

const fast = {
  MUSTER_RELIABILITY_SWEEP_INTERVAL_MS: "1000",
  MUSTER_RELIABILITY_AUDIT_INTERVAL_MS: "1000",
};

describe("the model of what was accepted", function () {
  this.timeout(120_000);
  let system: System;
  let model: Model;
  let vm: string;

  before(async () => {
    system = await openSystem({ env: { reliability: fast } });
    model = openModel(system);
    vm = await system.registerVm("served", 4);
    await system.startAgent({ vmUuids: [vm] });
  });
  after(async () => await system?.close());

  it("finds nothing wrong with a system that does what it says", async () => {
    const lonely = await system.registerVm("without an agent");
    await model.accept({ vmUuid: vm, stdoutBytes: 200_000, stderrBytes: 10 });
    await model.repeat(await model.accept({ vmUuid: vm, action: "script", exitCode: 3, stdoutBytes: 1 }));
    await model.accept({ vmUuid: lonely, expiresInSeconds: 1 });
    await model.accept({ vmUuid: vm, seconds: 30, timeoutSeconds: 1 });
    const running = await model.accept({ vmUuid: vm, seconds: 30, stdoutBytes: 100 });
    await model.started(running);
    await model.cancel(running);
    const refused = await model.accept({ vmUuid: "00000000-0000-7000-8000-000000000000" });
    expect(refused.refused).to.equal("VM_NOT_FOUND");
    expect(await model.check()).to.deep.equal([]);
  });

  it("names a second start, a lost command, an end that was not asked for, and a letter without a record", async () => {
    const [first, second, third] = await Promise.all([1, 2, 3].map(() => model.accept({ vmUuid: vm })));
    expect(await model.check({ messages: false })).to.deep.equal([]);
    await appendFile(model.startsFile, `${first!.key} ${first!.id!}.1\n`);
    await asAdmin(system.adminDatabaseUrl, async (admin) => {
      await admin.run(`DELETE FROM vm_ops.commands WHERE id = '${second!.id!}'`);
      await admin.run(
        `UPDATE vm_ops.commands SET state = 'dead_lettered', reason = 'poison' WHERE id = '${third!.id!}'`,
      );
    });
    const faults = (await model.check({ messages: false, withinMs: 1_000 })).join("\n");
    expect(faults).to.match(/started 2 times/);
    expect(faults).to.match(/was accepted and is lost/);
    expect(faults).to.match(/is dead_lettered but its history ends in succeeded/);
    expect(faults).to.match(/ended as dead_lettered:poison, not as succeeded:completed/);
    expect(faults).to.match(/was given up \(poison\) and no dead letter says so/);
  });
});
