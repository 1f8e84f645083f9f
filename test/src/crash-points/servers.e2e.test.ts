import { mkdtempSync, realpathSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { removeServerData, startServers, type Servers } from "@muster/scripts/servers/servers";
import { eventuallyHolds } from "@muster/testing/eventually";
import { openModel, type Model } from "../model/model.ts";
import { openSystem, type System } from "../system.ts";
import { keepAtWork } from "./load.ts";
import { agentEnv, compressed, foreignMayDie, noneCameMs } from "./settings.ts";
import type { Point } from "./plan.ts";
import { nameOf, thoroughness } from "./sweep.ts";
import { Victim } from "./victim.ts";

/** Times that each server dies, when not all points are asked for: it takes seconds to start again. */
const deathsMax = 4;
/** Of so many points, whichever come first: not every step comes soon after a server was away. */
const pointsMax = 2 * deathsMax;

describe("a server that dies while a service is between two of its durable steps", function () {
  this.timeout(2_400_000);
  let servers: Servers;
  let folder: string;
  let system: System;
  let model: Model;
  let vms: { served: string; lonely: string };

  before(async () => {
    folder = mkdtempSync(join(realpathSync(tmpdir()), "muster-crash-servers-"));
    servers = await startServers({ folder, durable: true, log: () => undefined, env: process.env });
    system = await openSystem({ env: compressed, servers });
    model = openModel(system, { mayDie: foreignMayDie });
    vms = { served: await system.registerVm("served", 8), lonely: await system.registerVm("lonely") };
    await system.startAgent({ vmUuids: [vms.served], env: agentEnv });
  });
  after(async () => {
    await system?.close();
    await servers?.stop();
    removeServerData(folder);
  });

  /** The points of one kind of step that were found, spread over all of them. */
  function chosen(steps: readonly string[], kinds: RegExp): Point[] {
    const points = steps
      .filter((step) => kinds.test(step))
      .flatMap((step) =>
        (step.startsWith("publish ") ? (["before"] as const) : (["before", "after"] as const)).map(
          (side) => ({
            ...{ step, side, nth: 1, how: "stop" as const },
          }),
        ),
      );
    if (isThorough) return points;
    const stride = Math.max(1, Math.floor(points.length / pointsMax));
    return points.filter((_, index) => index % stride === 0).slice(0, pointsMax);
  }

  const isThorough = thoroughness(process.env).cuts;

  async function sweep(what: "broker" | "database", kinds: RegExp): Promise<void> {
    const victim = new Victim(system.services["vm-ops"], system.folder);
    await victim.process.stop();
    victim.disarm();
    victim.start();
    await victim.process.ready();
    const errors: unknown[] = [];
    const load = keepAtWork(system, model, vms, (error) => errors.push(String(error)));
    const done: string[] = [];
    let points: Point[] = [];
    try {
      const enough = model.entries.length + 8;
      await eventuallyHolds(() => expect(model.entries.length).to.be.at.least(enough), 60_000);
      points = chosen(await victim.steps(), kinds);
      const deaths = isThorough ? points.length : deathsMax;
      let waiting = points;
      while (waiting.length > 0 && done.length < deaths) {
        const point = waiting[await victim.hit(victim.arm(waiting), noneCameMs)];
        if (point === undefined) break;
        waiting = waiting.filter((one) => one !== point);
        done.push(nameOf(point));
        await (what === "broker" ? servers.killBroker("SIGKILL") : servers.killDatabase("SIGKILL"));
        victim.process.signal("SIGCONT");
        await (what === "broker" ? servers.restartBroker() : servers.restartDatabase());
        await Promise.all(Object.values(system.services).map((service) => service.ready(60_000)));
      }
    } finally {
      victim.disarm();
      victim.process.signal("SIGCONT");
      if (victim.process.ended) victim.start();
      await load.stop();
    }
    process.stdout.write(`      ${what}: ${points.length} points chosen, killed at ${done.length}\n`);
    expect(done, "points at which the server was killed").to.have.length.at.least(Math.min(3, points.length));
    expect(errors).to.deep.equal([]);
    expect(await model.check()).to.deep.equal([]);
  }

  it("loses nothing and starts nothing twice when the database dies around a commit", async () => {
    await sweep("database", /^commit /);
  });

  it("loses nothing and starts nothing twice when the broker dies around a publish or an acknowledgement", async () => {
    await sweep("broker", /^(publish|confirm|reply|ack) /);
  });
});
