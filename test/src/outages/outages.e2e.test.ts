import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { removeServerData, startServers, type Servers } from "@muster/scripts/servers/servers";
import type { ManagedProcess } from "../processes.ts";
import { openSystem, type System } from "../system.ts";
import { outage, type Outcome } from "./outage.ts";
import { atItsBound, givenUpTimes, outageMs, ratioOf, scaled, units } from "./scale.ts";
import { isFine, type Seen } from "./watching.ts";

interface Running {
  readonly database: Promise<Outcome>;
  readonly broker: Promise<Outcome>;
  readonly killed: Promise<Outcome>;
  readonly stalled: Promise<Outcome>;
}

/** Answers that are neither success nor a retriable 503, or that never came. */
const bad = (seen: readonly Seen[]): string[] =>
  seen.filter((one) => !isFine(one)).map(({ what, status, code }) => `${what}: ${status} ${code}`);
const codesOf = (seen: readonly Seen[]): string[] => [...new Set(seen.map(({ code }) => code))];

const vmOpsOf = (system: System): ManagedProcess => system.services["vm-ops"];
const sharedServers = () => ({
  amqpUrl: process.env.MUSTER_TEST_AMQP_URL ?? "",
  managementUrl: process.env.MUSTER_TEST_MANAGEMENT_URL ?? "",
  databaseUrl: process.env.MUSTER_TEST_DATABASE_URL ?? "",
});

// Each takes as long as an outage takes and waits for most of it: they run side by side, each on a system of its own.
describe("ten minutes without", function () {
  this.timeout(400_000);
  let servers: Servers | undefined;
  let folder: string;
  const systems: System[] = [];
  let running: Running;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "muster-outages-"));
    servers = await startServers({ folder, durable: true, log: () => undefined });
    const own = servers;
    const shared = sharedServers();
    const open = async (on: typeof shared): Promise<System> => {
      const system = await openSystem({ env: scaled, servers: on });
      systems.push(system);
      return system;
    };
    const { amqpUrl, managementUrl, databaseUrl } = own;
    const [onOwnDatabase, onOwnBroker, killed, stalled] = await Promise.all([
      open({ ...shared, databaseUrl }),
      open({ ...shared, amqpUrl, managementUrl }),
      open(shared),
      open(shared),
    ]);
    const amnesty = true;
    running = {
      database: outage(onOwnDatabase, {
        gone: () => own.killDatabase("SIGKILL"),
        back: () => own.restartDatabase(),
        named: { "vm-ops": "database", reliability: "database", auth: "database" },
        amnesty,
      }),
      broker: outage(onOwnBroker, {
        gone: () => own.killBroker("SIGKILL"),
        back: () => own.restartBroker(),
        named: { gateway: "broker", "vm-ops": "broker", reliability: "broker", auth: "broker" },
        amnesty,
      }),
      killed: outage(killed, {
        gone: () => vmOpsOf(killed).stop("SIGKILL"),
        back: async () => {
          vmOpsOf(killed).start();
        },
        named: {},
        amnesty,
      }),
      stalled: outage(stalled, {
        gone: async () => {
          vmOpsOf(stalled).signal("SIGSTOP");
        },
        back: async () => {
          vmOpsOf(stalled).signal("SIGCONT");
        },
        named: {},
        amnesty,
      }),
    };
    for (const each of Object.values<Promise<Outcome>>({ ...running })) each.catch(() => undefined);
  });
  after(async () => {
    await Promise.allSettled(Object.values(running ?? {}));
    await Promise.all(systems.map((system) => system.close()));
    await servers?.stop();
    if (folder !== undefined) removeServerData(folder);
  });

  for (const unit of units) {
    it(`are here as many times ${unit} as they are with the defaults, or it is at its bound`, () => {
      const { real, here } = ratioOf(unit);
      if (here < real) expect(atItsBound(unit), `${here} instead of ${real}`).to.equal(true);
    });
  }

  it("are longer here than a command may stay unclaimed, however often it is put back", () => {
    expect(givenUpTimes).to.be.greaterThan(2);
    expect(outageMs).to.be.greaterThan(60_000);
  });

  const cases = [
    ["a database cost no command anything", "database", "DEPENDENCY_UNAVAILABLE"],
    ["a broker cost no command anything", "broker", "DEPENDENCY_UNAVAILABLE"],
    ["vm-ops, killed, cost no command anything", "killed", "DEADLINE_EXCEEDED"],
    ["vm-ops, standing still, cost no command anything", "stalled", "DEADLINE_EXCEEDED"],
  ] as const;
  for (const [name, which, code] of cases) {
    it(name, async () => {
      const { seen, faults } = await running[which];
      expect(faults).to.deep.equal([]);
      expect(bad(seen)).to.deep.equal([]);
      expect(codesOf(seen)).to.include(code);
    });
  }
});
