import { sides, type Point } from "./plan.ts";

/** How thorough a sweep is. */
export interface Thoroughness {
  /** Occurrences of each distinct step that are hit. */
  readonly occurrences: number;
  /** Whether the connections are cut at each step too, besides killing the process there. */
  readonly cuts: boolean;
}

/** `all` in MUSTER_TEST_CRASH_POINTS: each step three times, killed and cut. Otherwise its first time, killed. */
export function thoroughness(env: NodeJS.ProcessEnv): Thoroughness {
  return env["MUSTER_TEST_CRASH_POINTS"] === "all"
    ? { occurrences: 3, cuts: true }
    : { occurrences: 1, cuts: false };
}

export const nameOf = ({ step, nth, side, how }: Point): string => `${how} ${side} ${step} #${nth}`;

/** The points of a process: found from the steps that it takes, and each settled once. */
export class Worklist {
  readonly #thorough: Thoroughness;
  readonly #known = new Set<string>();
  #waiting: Point[] = [];
  readonly done: string[] = [];
  readonly missed: string[] = [];

  constructor(thorough: Thoroughness) {
    this.#thorough = thorough;
  }

  /** Steps that were seen; those that are new become points, also those that only a crash brought about. */
  add(steps: readonly string[]): void {
    for (const step of steps) {
      if (this.#known.has(step)) continue;
      this.#known.add(step);
      for (const how of this.#thorough.cuts ? (["kill", "cut"] as const) : (["kill"] as const)) {
        for (const side of sidesOf(step)) {
          for (let nth = 1; nth <= this.#thorough.occurrences; nth++) {
            this.#waiting.push({ step, nth, side, how });
          }
        }
      }
    }
  }

  get steps(): number {
    return this.#known.size;
  }

  /** One of what waits, which waits no longer. */
  next(): Point | undefined {
    return this.#waiting.shift();
  }

  /** What waits, to be settled in any order. */
  get waiting(): readonly Point[] {
    return this.#waiting;
  }

  settle(point: Point, hit: boolean): void {
    this.#waiting = this.#waiting.filter((one) => one !== point);
    (hit ? this.done : this.missed).push(nameOf(point));
  }

  /** What was found and done, for the report of a test. */
  words(name: string): string {
    const { done, missed } = this;
    const head = `${name}: ${this.steps} distinct steps; ${done.length} points hit, ${missed.length} did not come again`;
    return [head, ...missed.map((one) => `  not again: ${one}`)].map((line) => `      ${line}\n`).join("");
  }
}

/** A publish that left is a confirm that may come: `confirm` before is its other side. */
function sidesOf(step: string): readonly Point["side"][] {
  return step.startsWith("publish ") ? ["before"] : sides;
}
