import type { Schedulable } from "./schedule.ts";
import type { World } from "./world.ts";

export interface Injected {
  /** Ends the fault; what it hit must then come back by itself. */
  heal(): Promise<void>;
  /** What exactly was done, where the target alone does not say it. */
  readonly detail?: string;
}

/** A way for something to fail. What is declared in `faults` is scheduled without further ado. */
export interface Fault extends Schedulable {
  /** `roll` in [0, 1) decides what the fault leaves open. Throws where it cannot be done. */
  inject(world: World, target: string, roll: number, durationMs: number): Promise<Injected>;
}
