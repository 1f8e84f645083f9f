/** Runs `work` so many times, one after another; how long each took, in ms. */
export async function oneAfterAnother(count: number, work: (n: number) => Promise<void>): Promise<number[]> {
  const took: number[] = [];
  for (let n = 0; n < count; n++) {
    const fromMs = performance.now();
    await work(n);
    took.push(performance.now() - fromMs);
  }
  return took;
}

/** Runs `work` so many times, so many at once. */
export async function inParallel(
  count: number,
  atOnce: number,
  work: (n: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, count) }, worker));
}
