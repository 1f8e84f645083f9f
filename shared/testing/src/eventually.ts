/** Repeats `check` until it neither throws nor answers undefined or false; rejects with its last word at `timeoutMs`. */
export async function eventually<T>(
  check: () => T | Promise<T>,
  timeoutMs = 10_000,
): Promise<Exclude<T, undefined | false>> {
  const untilMs = performance.now() + timeoutMs;
  let pauseMs = 5;
  for (;;) {
    let last: unknown;
    try {
      const answer = await check();
      if (answer !== undefined && answer !== false) return answer as Exclude<T, undefined | false>;
      last = new Error(`still ${String(answer)}`);
    } catch (error) {
      last = error;
    }
    if (performance.now() + pauseMs > untilMs) {
      const words = last instanceof Error ? last.message : String(last);
      throw new Error(`not within ${timeoutMs} ms: ${words}`, { cause: last });
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
    pauseMs = Math.min(100, pauseMs * 2);
  }
}

/** The same for an assertion that answers nothing: it holds once it no longer throws. */
export async function eventuallyHolds(assertion: () => unknown, timeoutMs = 10_000): Promise<void> {
  await eventually(async () => {
    await assertion();
    return true;
  }, timeoutMs);
}
