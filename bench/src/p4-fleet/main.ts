import { runBenchmark } from "../harness/command.ts";
import { tell, type Figure, type Sample } from "../harness/figure.ts";
import { openFleet, type Fleet, type QueueType } from "./fleet.ts";

/**
 * P4: what a dispatch costs when the fleet is large, against a fleet of ten, held to what the same queues cost the
 * broker's own client. Each sample is a cost among many over the cost among few.
 */
const few = 10;
const window = 100;

interface Costs {
  readonly p50Ms: number;
  readonly windowMs: number;
}

async function ourCosts(fleet: Fleet, count: number): Promise<Costs> {
  const { dispatchMs } = await fleet.oneByOne(count / 10);
  return { p50Ms: dispatchMs, windowMs: 1_000 / (await fleet.windowed(count, window)) };
}

async function bareCosts({ bare }: Fleet, count: number): Promise<Costs> {
  const p50Ms = await bare.oneByOne(count / 10);
  return { p50Ms, windowMs: 1_000 / (await bare.windowed(count, window)) };
}

interface Taken {
  readonly p50: Sample[];
  readonly rate: Sample[];
  readonly seen: object[];
  readonly registration: object;
}

async function measure(
  type: QueueType,
  o: { many: number; count: number; rounds: number; log: (line: string) => void },
): Promise<Taken> {
  const small = await openFleet(few, type);
  const large = await openFleet(o.many, type);
  const perSecond = (o.many * 1_000) / large.registeredMs;
  o.log(`${type}: ${o.many} VMs registered with their queues, ${perSecond.toFixed(0)} a second`);
  const taken: Taken = {
    ...{ p50: [], rate: [], seen: [] },
    registration: { vms: o.many, seconds: large.registeredMs / 1_000, perSecond },
  };
  // The first round finds cold plans and queues that never held a message.
  for (let round = 0; round <= o.rounds; round++) {
    const costs = {
      ours: { few: await ourCosts(small, o.count), many: await ourCosts(large, o.count) },
      bare: { few: await bareCosts(small, o.count), many: await bareCosts(large, o.count) },
    };
    await small.bare.purge();
    o.log(`${type}, round ${round}: ${JSON.stringify(costs)}`);
    if (round === 0) continue;
    const { ours, bare } = costs;
    taken.p50.push({ ours: ours.many.p50Ms / ours.few.p50Ms, raw: bare.many.p50Ms / bare.few.p50Ms });
    taken.rate.push({
      ours: ours.many.windowMs / ours.few.windowMs,
      raw: bare.many.windowMs / bare.few.windowMs,
    });
    taken.seen.push(costs);
  }
  await large.bare.close();
  await small.bare.close();
  // With ten thousand queues a vhost may outlast the call that removes it; its server goes at the end in any case.
  for (const fleet of [large, small]) await fleet.close().catch((error: unknown) => o.log(String(error)));
  return taken;
}

await runBenchmark(
  "p4-fleet",
  async (servers, { rounds, json, log, own }) => {
    const { vms = 0, quorum = 0, count = 0 } = own;
    // So many queues need more than what a node of this project takes for itself by default.
    await servers.broker.control?.(["set_vm_memory_high_watermark", "absolute", "6GB"]);
    const figures: Figure[] = [];
    const observed: Record<string, unknown> = { few, window, count };
    for (const [type, many] of [
      ["classic", vms],
      ["quorum", quorum],
    ] as const) {
      if (many === 0) continue;
      const { p50, rate, seen, registration } = await measure(type, { many, count, rounds, log });
      const name = `growth of a dispatch's cost from ${few} to ${many} VMs (${type} queues)`;
      figures.push({ name: `${name}, one at a time, p50`, unit: "×", goal: { atMost: 1.2 }, rounds: p50 });
      figures.push({ name: `${name}, window ${window}`, unit: "×", goal: { atMost: 1.2 }, rounds: rate });
      observed[type] = { registration, costsInMs: seen };
    }
    await tell({ benchmark: "p4-fleet", figures, observed }, json);
  },
  { vms: 10_000, quorum: 2_000, count: 2_000 },
);
