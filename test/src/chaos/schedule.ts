import { seededRandom } from "./random.ts";

/** What the schedule must know of a kind of fault. */
export interface Schedulable {
  readonly name: string;
  /** Names of what it may hit; the same in every run. */
  readonly targets: readonly string[];
  /** How long it lasts, in milliseconds. */
  readonly lastsMs: readonly [min: number, max: number];
  /** Faults on one resource never overlap; the target where none is named. */
  readonly resource?: string;
}

export interface Planned {
  /** From the start of the load. */
  readonly atMs: number;
  readonly fault: string;
  readonly target: string;
  readonly durationMs: number;
  /** In [0, 1): what else the fault has to choose. */
  readonly roll: number;
}

const firstAtMs = 3_000;
/** From the start of one to the start of the next. */
const gapMs = [1_500, 6_500] as const;
const atOnceMax = 3;
/** A resource has so long to itself between two faults. */
const restMs = 4_000;

/**
 * The whole run, decided by the seed alone: every kind once in random order, then all again, until the time is over.
 * At most three at once, never two on one resource.
 */
export function makeSchedule(seed: number, lengthMs: number, faults: readonly Schedulable[]): Planned[] {
  const random = seededRandom(seed);
  const planned: Planned[] = [];
  const busyUntil = new Map<string, number>();
  let bag: Schedulable[] = [];
  let earliestMs = firstAtMs;
  for (;;) {
    if (bag.length === 0) bag = random.shuffled(faults);
    const fault = bag.shift();
    if (fault === undefined) return planned;
    const target = random.pick(fault.targets);
    const durationMs = Math.round(random.between(...fault.lastsMs));
    const resource = fault.resource ?? target;
    const running = planned.map((one) => one.atMs + one.durationMs).filter((end) => end > earliestMs);
    const free = running.length < atOnceMax ? 0 : running.toSorted((a, b) => b - a)[atOnceMax - 1]!;
    const atMs = Math.round(Math.max(earliestMs, free, (busyUntil.get(resource) ?? 0) + restMs));
    if (atMs + durationMs > lengthMs) return planned.toSorted((a, b) => a.atMs - b.atMs);
    planned.push({ atMs, fault: fault.name, target, durationMs, roll: random.next() });
    busyUntil.set(resource, atMs + durationMs);
    earliestMs = Math.max(earliestMs, atMs) + random.between(...gapMs);
  }
}
