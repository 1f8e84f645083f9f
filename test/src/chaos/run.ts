import { eventuallyHolds } from "@muster/testing/eventually";
import { agentsUnrouted } from "@muster/contracts/topology";
import { openModel, type Model } from "../model/model.ts";
import { explainable, unexplained } from "./explain.ts";
import type { Fault } from "./fault.ts";
import { faults } from "./faults.ts";
import { serviceQueueDeleted } from "./faults-broker.ts";
import { startLoad } from "./load.ts";
import type { ChaosReport, Outcome } from "./report.ts";
import { makeSchedule, type Planned } from "./schedule.ts";
import { countingFetch, readRecords, watchCounters, type Counts, type Requests } from "./seen.ts";
import { openWorld, processNames, vmNames, type World } from "./world.ts";

export interface ChaosOptions {
  readonly minutes: number;
  readonly seed: number;
  readonly log: (line: string) => void;
  /** Breaks the faults off: they are healed, and everything is stopped as after a violation. */
  readonly signal?: AbortSignal;
  /** Of all that are declared, only these. */
  readonly only?: (fault: Fault) => boolean;
}

/** What was running when the last fault was healed may take so long to come back. */
const comeBackMs = 90_000;
/** A lost lease takes a minute to be seen, its late result some seconds more. */
const settleMs = 180_000;
/** Less is the time that injecting takes. */
const lateMinMs = 2_000;
/** Which messages may rightly die of this schedule. What their senders still want, they send again. */
function mayDieOf(schedule: readonly Planned[]): (letter: { queue: string; reason: string }) => boolean {
  const unserved = schedule.some((one) => one.fault === serviceQueueDeleted);
  return ({ queue, reason }) =>
    // A doorbell that was delivered again and again, because its agent's link failed each time.
    (queue.startsWith("vm.") && reason === "delivery_limit") ||
    // A report that came while no queue took it: parked, on record, and sent again by its agent.
    (unserved && queue === agentsUnrouted && reason === "unrouted");
}

/** Runs faults against a whole system of its own under load, then judges what became of everything accepted. */
export async function runChaos(o: ChaosOptions): Promise<ChaosReport> {
  o.log("starting a broker, a database, four services and three agents");
  const world = await openWorld(o.log);
  let violations: readonly string[] = ["the run broke off"];
  try {
    const judged = await runIn(world, o);
    violations = judged.violations;
    return violations.length === 0 ? judged : { ...judged, folder: world.folder };
  } finally {
    if (violations.length > 0) o.log(`logs and journals: ${world.folder} and ${world.system.folder}`);
    await world.close(violations.length > 0);
  }
}

async function runIn(world: World, o: ChaosOptions): Promise<Omit<ChaosReport, "folder">> {
  const chosen = faults.filter(o.only ?? (() => true));
  const schedule = makeSchedule(o.seed, o.minutes * 60_000, chosen);
  const requests: Requests = { sent: 0, answers: new Map() };
  const model = openModel(world.system, {
    alsoEnds: explainable,
    mayDie: mayDieOf(schedule),
    fetch: countingFetch(requests),
  });
  const processes = processNames.map((name) => world.process(name));
  const counters = watchCounters(processes);
  const load = startLoad({ model, vmUuids: vmNames.map((name) => world.vm(name)), seed: o.seed });
  const startedMs = performance.now();
  const turns = new Map<string, Promise<unknown>>();
  const outcomes = await Promise.all(
    schedule.map(async (planned) => {
      const resource = resourceOf(chosen, planned);
      // Planned apart; but what takes its time to heal, such as a broker that starts, keeps the next one waiting.
      const turn = (turns.get(resource) ?? Promise.resolve()).then(() =>
        carryOut(world, planned, startedMs, o),
      );
      turns.set(resource, turn);
      return await turn;
    }),
  );
  await pause(startedMs + o.minutes * 60_000 - performance.now(), o.signal).catch(() => undefined);
  o.signal?.throwIfAborted();

  o.log("all faults are healed; waiting for everything to come back and to end");
  const away = await Promise.all(processes.map((one) => backAgain(one.name, () => one.ready(1_000))));
  await load.stop();
  const violations = [
    ...away.flat(),
    ...load.complaints,
    // Of a system that does not come back nothing can be asked.
    ...(away.flat().length > 0 ? [] : await model.check({ withinMs: settleMs })),
    ...(await unexplained(world.system, outcomes)),
    ...world.keeper.ends
      .filter(({ code }) => code === null || code === 75)
      .map(({ name, code }) => `${name} ended by itself with ${code === null ? "a signal" : `code ${code}`}`),
  ];
  await counters.close();
  const seen = {
    ...asked(model, requests),
    "on the way": Object.fromEntries(counters.sums),
    ...endsOf(world),
    ...(await readRecords(world.system)),
  };
  return { seed: o.seed, minutes: o.minutes, outcomes, seen, violations };
}

async function carryOut(
  world: World,
  planned: Planned,
  startedMs: number,
  { log, signal }: ChaosOptions,
): Promise<Outcome> {
  const fault = faults.find(({ name }) => name === planned.fault);
  if (fault === undefined) throw new Error(`there is no fault ${planned.fault}`);
  const said = `${planned.fault}: ${planned.target}`;
  try {
    await pause(startedMs + planned.atMs - performance.now(), signal);
    const lateMs = performance.now() - startedMs - planned.atMs;
    const injected = await fault.inject(world, planned.target, planned.roll, planned.durationMs);
    const details = [
      injected.detail,
      lateMs > lateMinMs ? `${Math.round(lateMs / 1_000)} s late` : undefined,
    ];
    const detail = details.filter((one) => one !== undefined).join("; ");
    log(`${elapsed(startedMs)} ${said}${detail === "" ? "" : ` (${detail})`}`);
    await pause(planned.durationMs, signal).finally(() => injected.heal());
    log(`${elapsed(startedMs)} healed ${said}`);
    return detail === "" ? planned : { ...planned, detail };
  } catch (error) {
    const words = error instanceof Error ? error.message : String(error);
    if (signal?.aborted !== true) log(`${elapsed(startedMs)} ${said} could not be done: ${words}`);
    return { ...planned, error: words.split("\n")[0] ?? "" };
  }
}

function resourceOf(declared: readonly Fault[], planned: Planned): string {
  return declared.find(({ name }) => name === planned.fault)?.resource ?? planned.target;
}

async function backAgain(name: string, ready: () => Promise<void>): Promise<string[]> {
  try {
    await eventuallyHolds(ready, comeBackMs);
    return [];
  } catch (error) {
    return [`${name} did not come back: ${error instanceof Error ? error.message : String(error)}`];
  }
}

function asked(model: Model, { sent, answers }: Requests): Record<string, Counts> {
  const accepted = model.entries.filter((entry) => entry.id !== undefined).length;
  const refused = model.entries.filter((entry) => entry.refused !== undefined).length;
  return {
    orders: { made: model.entries.length, accepted, "refused for good": refused },
    requests: { sent, ...Object.fromEntries([...answers].toSorted(([, a], [, b]) => b - a)) },
  };
}

function endsOf(world: World): Record<string, Counts> {
  const ends: Record<string, number> = {};
  for (const { name, code } of world.keeper.ends) {
    const what = `${name} with ${code === null ? "a signal" : `code ${code}`}`;
    ends[what] = (ends[what] ?? 0) + 1;
  }
  return Object.keys(ends).length === 0 ? {} : { "ended by themselves and were started again": ends };
}

const elapsed = (startedMs: number): string =>
  `${((performance.now() - startedMs) / 1_000).toFixed(1).padStart(7)} s`;

function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(new Error("broken off"));
    };
    const timer = setTimeout(
      () => {
        signal?.removeEventListener("abort", stop);
        resolve();
      },
      Math.max(0, ms),
    );
    if (signal?.aborted === true) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
