import { pass } from "./clock.ts";

/** Runs `work` again and again, `inFlight` at once, until the time is over (or `until` holds); answers how many succeeded. */
export async function closedLoop(
  o: { inFlight: number; seconds: number; until?: () => boolean },
  work: (n: number) => Promise<void>,
): Promise<{ done: number; seconds: number; failed: number }> {
  const startedMs = performance.now();
  const untilMs = startedMs + o.seconds * 1_000;
  let n = 0;
  let done = 0;
  let failed = 0;
  const caller = async (): Promise<void> => {
    while (performance.now() < untilMs && o.until?.() !== true) {
      try {
        await work(n++);
        done += 1;
      } catch (error) {
        failed += 1;
        // Refusals now and then are part of it; a benchmark of nothing but refusals is a mistake.
        if (done === 0 && failed >= 100) throw error;
        await pass(5);
      }
    }
  };
  await Promise.all(Array.from({ length: o.inFlight }, caller));
  return { done, seconds: (performance.now() - startedMs) / 1_000, failed };
}

/**
 * Starts `rate` pieces of work a second, however long each takes, for so many seconds; resolves when all have ended.
 * A start that is late is made up for at once, so the rate holds.
 */
export async function openLoop(
  o: { rate: number; seconds: number },
  work: (n: number) => Promise<void>,
): Promise<{ started: number; failed: number }> {
  const total = Math.round(o.rate * o.seconds);
  const startedMs = performance.now();
  const running: Promise<void>[] = [];
  let failed = 0;
  for (let n = 0; n < total; n++) {
    const aheadMs = startedMs + (n * 1_000) / o.rate - performance.now();
    if (aheadMs >= 1) await pass(aheadMs);
    running.push(work(n).catch(() => void (failed += 1)));
  }
  await Promise.all(running);
  return { started: total, failed };
}
