import { readFileSync } from "node:fs";
import { applyTopology } from "@muster/broker/topology-apply";
import { subscriptionQueue } from "@muster/contracts/topology";
import { openAdmin, type Admin } from "@muster/database/admin";
import { setupDatabase } from "@muster/testing/database";
import { setupVhost, type Vhost } from "@muster/testing/vhost";
import { loginName } from "@muster/contracts/senders";
import { z } from "zod";
import { startChild, type Child } from "../harness/child.ts";
import { runBenchmark, type BenchmarkOptions } from "../harness/command.ts";
import { pass } from "../harness/clock.ts";
import { median, tell, type Figure, type Sample } from "../harness/figure.ts";
import { toggleProfiles } from "../harness/profile.ts";
import { bareTables, migrations, schema, subscription, topology, warmUpMs } from "./mesh.ts";

const programs = {
  ours: new URL("./ours.js", import.meta.url),
  bare: new URL("./bare.js", import.meta.url),
} as const;
type Side = keyof typeof programs;
const rateSchema = z.object({ perSecond: z.number() });

function versionOf(name: string): string {
  const file = new URL(`../../../../node_modules/${name}/package.json`, import.meta.url);
  return z.object({ version: z.string() }).parse(JSON.parse(readFileSync(file, "utf8"))).version;
}

const consumed = { count: 60_000, skip: 15_000 };
const outbox = { perCommit: 20, ahead: 2_000 };

interface Place {
  readonly vhost: Vhost;
  readonly admin: Admin;
  readonly options: BenchmarkOptions;
  start(side: Side): Promise<Child>;
}

/** One measurement of one side, in processes of its own, from an empty queue and empty tables. */
type Part = (place: Place, side: Side) => Promise<number>;

async function measured(child: Child, name: string, asked: unknown, place: Place): Promise<number> {
  const answer = child.call(name, asked);
  const toggling = (async () => {
    await pass(warmUpMs);
    toggleProfiles([child.pid]);
    await pass(place.options.seconds * 800);
    toggleProfiles([child.pid]);
  })();
  const { perSecond } = rateSchema.parse(await answer);
  await toggling;
  return perSecond;
}

const parts: Readonly<Record<string, Part>> = {
  publish: async (place, side) => {
    const child = await place.start(side);
    const rate = await measured(child, "publish", { seconds: place.options.seconds }, place);
    await child.stop();
    return rate;
  },
  consume: async (place, side) => {
    const filler = await place.start("ours");
    await filler.call("fill", { count: consumed.count });
    await filler.stop();
    const child = await place.start(side);
    const rate = await measured(child, "consume", consumed, place);
    await child.stop();
    return rate;
  },
  request: async (place, side) => {
    const [server, asker] = [await place.start(side), await place.start(side)];
    await server.call("serve");
    const rate = await measured(asker, "request", { seconds: place.options.seconds }, place);
    await asker.stop();
    await server.stop();
    return rate;
  },
  outbox: async (place, side) => {
    const child = await place.start(side);
    const rate = await measured(child, "outbox", { seconds: place.options.seconds, ...outbox }, place);
    await child.stop();
    return rate;
  },
};

async function rest({ vhost, admin }: Place): Promise<void> {
  await vhost.call("DELETE", `/queues/{vhost}/${subscriptionQueue(subscription)}/contents`);
  await admin.run(
    `TRUNCATE bare_inbox, bare_effects, bare_outbox, ${schema}.inbox, ${schema}.outbox, ${schema}.effects`,
  );
  await admin.run("CHECKPOINT");
}

/** Our side and the bare one take turns at being first. */
async function measure(place: Place, wanted: readonly string[]): Promise<Map<string, Sample[]>> {
  const samples = new Map<string, Sample[]>(wanted.map((name) => [name, []]));
  for (let round = 0; round < place.options.rounds; round++) {
    for (const name of wanted) {
      const rates = { ours: 0, bare: 0 };
      const order: readonly Side[] = round % 2 === 0 ? ["bare", "ours"] : ["ours", "bare"];
      for (const side of order) {
        rates[side] = (await parts[name]?.(place, side)) ?? Number.NaN;
        await rest(place);
      }
      samples.get(name)?.push({ ours: rates.ours, raw: rates.bare });
      const shown = `${rates.ours.toFixed(0)} against ${rates.bare.toFixed(0)} a second`;
      place.options.log(`round ${round + 1} ${name}: ${shown}, ${(rates.ours / rates.bare).toFixed(2)}`);
    }
  }
  return samples;
}

const goals: Readonly<Record<string, { name: string; atLeast: number }>> = {
  publish: { name: "publish, window 100, against bare amqplib", atLeast: 0.7 },
  consume: { name: "consume with inbox in batches, against bare amqplib and multi-row SQL", atLeast: 0.5 },
};

/** Ratios that have no goal. */
function observedOf(name: string, rounds: readonly Sample[]): Record<string, unknown> {
  const ratios = rounds.map(({ ours, raw }) => ours / raw);
  return {
    [name]: {
      unit: "messages/s",
      ours: median(rounds.map((round) => round.ours)),
      raw: median(rounds.map((round) => round.raw)),
      ratio: { median: median(ratios), lowest: Math.min(...ratios), highest: Math.max(...ratios) },
      rounds,
    },
  };
}

const ownOptions = { publish: 1, consume: 1, request: 1, outbox: 1 };
await runBenchmark(
  "p3-messaging",
  async (servers, options) => {
    const vhost = await setupVhost(servers);
    await applyTopology(topology(), vhost);
    const base = await setupDatabase({
      migrations: [{ schema, directory: migrations }],
      serverUrl: servers.databaseUrl,
    });
    const admin = await openAdmin(base.adminUrl);
    await admin.run(bareTables);
    const url = await vhost.urlAs(loginName("vm-ops"));
    const start = (side: Side): Promise<Child> =>
      startChild(programs[side], {
        MUSTER_AMQP_URL: url,
        MUSTER_DATABASE_URL: side === "ours" ? base.urlFor(schema) : base.adminUrl,
      });
    const place: Place = { vhost, admin, options, start };
    const wanted = Object.keys(parts).filter((name) => options.own[name] !== 0);
    const samples = await measure(place, wanted);
    const figures: Figure[] = [];
    const observed: Record<string, unknown> = {};
    for (const [name, rounds] of samples) {
      const goal = goals[name];
      if (goal === undefined) Object.assign(observed, observedOf(name, rounds));
      else figures.push({ name: goal.name, unit: "messages/s", goal: { atLeast: goal.atLeast }, rounds });
    }
    const versions = { amqplib: versionOf("amqplib"), pg: versionOf("pg") };
    await tell({ benchmark: "P3 messaging", figures, observed, versions }, options.json);
    await admin.close();
    await base.destroy();
    await vhost.destroy();
  },
  ownOptions,
);
