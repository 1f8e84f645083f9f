/** Wall time in milliseconds with fractions, to compare with the clock of another process or of the database. */
export function openClock(): () => number {
  let offset = -Infinity;
  // Date.now() cuts off its fraction: the largest difference seen is the one with nothing cut off.
  const until = performance.now() + 20;
  while (performance.now() < until) offset = Math.max(offset, Date.now() - performance.now());
  return () => performance.now() + offset;
}

/** Resolves after so many milliseconds of measuring. */
export const pass = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
