import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { ended } from "../following.ts";
import { openModel, type Accepted, type Model } from "../model/model.ts";
import { openSystem, type System } from "../system.ts";
import { oneOfEach } from "./load.ts";
import { agentEnv, comesWithinMs, compressed } from "./settings.ts";
import { thoroughness, Worklist } from "./sweep.ts";
import { Victim } from "./victim.ts";

/** Agents that die at once, each at points of its own; a command sees one death at most, two would be poison. */
const lanes = 4;
/** What the death of a supervisor leaves to say: it never began, or nobody saw its end. */
const lostSupervisor = ["failed:supervisor_lost", "failed:start_failed"];

describe("an agent that dies between any two of its durable steps", function () {
  this.timeout(2_400_000);
  let system: System;
  let model: Model;
  let lonely: string;

  before(async () => {
    system = await openSystem({ env: compressed });
    model = openModel(system);
    lonely = await system.registerVm("lonely");
  });
  after(async () => await system?.close());

  /** An agent of its own, with the preload from its first start on. */
  async function openLane(name: string, supervisors = false): Promise<{ victim: Victim; vm: string }> {
    const vm = await system.registerVm(name, 8);
    const agent = await system.startAgent({ vmUuids: [vm], name, env: agentEnv });
    await agent.process.stop();
    const victim = new Victim(agent.process, system.folder, { home: agent.home, supervisors });
    victim.disarm();
    victim.start();
    await agent.process.ready();
    return { victim, vm };
  }

  const allEnded = async (entries: readonly Accepted[]): Promise<void> => {
    await Promise.all(entries.map(({ id }) => ended(system.client, id ?? "", 60_000)));
  };

  it("loses nothing and starts nothing twice, wherever an agent dies", async () => {
    const work = new Worklist(thoroughness(process.env));
    const run = async (name: string): Promise<void> => {
      const { victim, vm } = await openLane(name);
      const atStart = new Set(await victim.steps());
      await allEnded(await oneOfEach(model, { served: vm, lonely }));
      work.add(await victim.steps());
      for (let point = work.next(); point !== undefined; point = work.next()) {
        if (atStart.has(point.step)) await victim.process.stop();
        const id = victim.arm([point]);
        if (victim.process.ended) victim.start();
        const round = oneOfEach(model, { served: vm, lonely });
        const hit = (await victim.hit(id, comesWithinMs)) === 0;
        work.settle(point, hit);
        if (hit && point.how === "kill") await victim.gone();
        victim.disarm();
        if (victim.process.ended) victim.start();
        await allEnded(await round);
        work.add(await victim.steps());
      }
    };
    try {
      await Promise.all(Array.from({ length: lanes }, (_, index) => run(`lane-${index}`)));
    } finally {
      process.stdout.write(work.words("agent"));
    }
    expect(work.done, "points that were hit").to.have.length.at.least(20);
    expect(await model.check()).to.deep.equal([]);
  });

  it("tells the truth about a command, wherever its supervisor dies", async () => {
    const work = new Worklist({ ...thoroughness(process.env), cuts: false });
    const { victim, vm } = await openLane("supervised", true);
    const one = () =>
      model.accept({ vmUuid: vm, action: "script", stdoutBytes: 100, alsoEnds: lostSupervisor });
    await allEnded([await one()]);
    work.add(await victim.steps(true));
    for (let point = work.next(); point !== undefined; point = work.next()) {
      const id = victim.arm([point], true);
      const entry = await one();
      await allEnded([entry]);
      work.settle(point, (await victim.hit(id, 100, true)) === 0);
      work.add(await victim.steps(true));
    }
    process.stdout.write(work.words("supervisor"));
    expect(work.done, "points that were hit").to.have.length.at.least(20);
    expect(await model.check()).to.deep.equal([]);
  });
});
