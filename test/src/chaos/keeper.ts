import type { ManagedProcess } from "../processes.ts";

/** Starts again what ends by itself, as an installation's supervisor does, unless a fault holds it down. */
export interface Keeper {
  /** One line for each end that no fault asked for. */
  readonly ends: readonly { name: string; code: number | null }[];
  /** It stays down until `release`. */
  hold(name: string): void;
  release(name: string): void;
  close(): Promise<void>;
}

const lookMs = 200;
const pauseMs = 1_000;

export function keepRunning(processes: readonly ManagedProcess[]): Keeper {
  const held = new Set<string>();
  const pausing = new Set<string>();
  const ends: { name: string; code: number | null }[] = [];

  function look(): void {
    for (const one of processes) {
      if (!one.ended || held.has(one.name) || pausing.has(one.name)) continue;
      ends.push({ name: one.name, code: one.exitCode });
      pausing.add(one.name);
      setTimeout(() => {
        pausing.delete(one.name);
        if (timer !== undefined && one.ended && !held.has(one.name)) one.start();
      }, pauseMs);
    }
  }
  let timer: NodeJS.Timeout | undefined = setInterval(look, lookMs);
  return {
    ends,
    hold: (name) => void held.add(name),
    release: (name) => {
      held.delete(name);
      const one = processes.find((process) => process.name === name);
      if (one?.ended === true) one.start();
    },
    close: () => {
      clearInterval(timer);
      timer = undefined;
      return Promise.resolve();
    },
  };
}
