/** How fast agents may send output, by how much of it is under way here. */
export interface Pace {
  enter(bytes: number): { leave(): void };
  tempo(): { readonly nextIntervalMs: number; readonly paused: boolean };
}

const easyBytes = 4 * 1024 * 1024;
const pausedBytes = 32 * 1024 * 1024;
const slowestMs = 5_000;
/** Prompt enough to look live, rare enough to gather small writes. */
const quietMs = 50;

export function makePace(): Pace {
  let underWay = 0;
  return {
    enter(bytes) {
      underWay += bytes;
      let left = false;
      return {
        leave() {
          if (!left) underWay -= bytes;
          left = true;
        },
      };
    },
    tempo() {
      if (underWay <= easyBytes) return { nextIntervalMs: quietMs, paused: false };
      const load = Math.min(1, (underWay - easyBytes) / (pausedBytes - easyBytes));
      return { nextIntervalMs: Math.round(quietMs + load * slowestMs), paused: underWay > pausedBytes };
    },
  };
}
