/** How soon a process that ended is started again. Times in milliseconds. */
export interface Backoff {
  /** The pause before the next start, given how long the last one lived. */
  pauseAfter(livedMs: number): number;
}

const firstPauseMs = 200;
const pauseMsMax = 15_000;
const livedLongMs = 60_000;

/** Doubles with each short life, up to 15 s; a minute of life starts it anew. */
export function openBackoff(): Backoff {
  let shortLives = 0;
  return {
    pauseAfter: (livedMs) => {
      shortLives = livedMs >= livedLongMs ? 0 : shortLives + 1;
      return Math.min(pauseMsMax, firstPauseMs * 2 ** Math.max(0, shortLives - 1));
    },
  };
}
