import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { eventuallyHolds } from "@muster/testing/eventually";
import { asAdmin } from "../model/facts.ts";
import { openModel, type Model } from "../model/model.ts";
import { openSystem, type ServiceName, type System } from "../system.ts";
import { keepAtWork, keepDozing } from "./load.ts";
import { agentEnv, compressed, foreignMayDie, noneCameMs } from "./settings.ts";
import { thoroughness, Worklist } from "./sweep.ts";
import { Victim } from "./victim.ts";

/** Longer than a command waits before it is put back. */
const dozeMs = 17_000;
/** Fewer than the deliveries of a message after which it counts as the cause of them. */
const livesInARow = 6;

describe("a service that dies between any two of its durable steps", function () {
  this.timeout(2_400_000);
  let system: System;
  let model: Model;
  let vms: { served: string; lonely: string };
  let dozing: string;
  let foreign = 0;

  before(async () => {
    system = await openSystem({ env: compressed });
    model = openModel(system, { mayDie: foreignMayDie });
    vms = { served: await system.registerVm("served", 8), lonely: await system.registerVm("lonely") };
    dozing = await system.registerVm("dozing");
    await system.startAgent({ vmUuids: [vms.served], env: agentEnv });
    await system.startAgent({ vmUuids: [dozing], name: "dozing", env: agentEnv });
  });
  after(async () => await system?.close());

  /** Ends the service at each point of the list, whichever comes first, while the system is kept at work. */
  async function sweep(victim: Victim, work: Worklist): Promise<void> {
    await victim.process.stop();
    victim.disarm();
    victim.start();
    await victim.process.ready();
    const errors: unknown[] = [];
    const load = keepAtWork(system, model, vms, (error) => errors.push(String(error)));
    try {
      await aWholeRound();
      work.add(await victim.steps());
      for (let lives = 1; work.waiting.length > 0; lives++) {
        if (lives % livesInARow === 0) await breathe(victim);
        const points = work.waiting;
        const id = victim.arm(points);
        if (victim.process.ended) victim.start();
        const point = points[await victim.hit(id, noneCameMs)];
        if (point === undefined) for (const missed of points) work.settle(missed, false);
        else work.settle(point, true);
        if (point?.how === "kill") await victim.gone();
        work.add(await victim.steps());
      }
    } finally {
      victim.disarm();
      if (victim.process.ended) victim.start();
      await victim.process.ready();
      await load.stop();
    }
    expect(errors).to.deep.equal([]);
    foreign += load.foreign;
  }

  /** Lets it live for a while: what it died of again and again is delivered so often and no more. */
  async function breathe(victim: Victim): Promise<void> {
    victim.disarm();
    if (victim.process.ended) victim.start();
    await victim.process.ready();
    await aWholeRound();
  }

  async function aWholeRound(): Promise<void> {
    const enough = model.entries.length + 8;
    await eventuallyHolds(() => expect(model.entries.length).to.be.at.least(enough), 60_000);
  }

  async function foreignAreOnRecord(): Promise<void> {
    await eventuallyHolds(async () => {
      const rows = await asAdmin(system.adminDatabaseUrl, (admin) =>
        admin.query("SELECT 1 FROM reliability.dead_letters WHERE kind = 'message'"),
      );
      expect(rows, "foreign messages on record, once each").to.have.length(foreign);
    }, 30_000);
  }

  for (const name of ["gateway", "vm-ops", "reliability", "auth"] as const satisfies ServiceName[]) {
    it(`loses nothing and starts nothing twice, wherever ${name} dies`, async () => {
      const work = new Worklist(thoroughness(process.env));
      const sleepy = name === "vm-ops" || name === "reliability" ? system.agents[1] : undefined;
      const doze = sleepy && keepDozing(sleepy.process, model, dozing, dozeMs);
      try {
        await sweep(new Victim(system.services[name], system.folder), work);
      } finally {
        await doze?.stop();
        process.stdout.write(work.words(name));
      }
      expect(work.done, "points that were hit").to.have.length.at.least(work.steps);
      expect(await model.check()).to.deep.equal([]);
      await foreignAreOnRecord();
    });
  }
});
