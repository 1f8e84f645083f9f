import { setTimeout as delay } from "node:timers/promises";
import { isAlive, signal } from "./process-table.ts";
import type { ProcessIdentity } from "./process-table.ts";

/** Asks `check` again and again until it answers something else than undefined or false; undefined after `timeoutMs`. */
export async function pollUntil<T>(
  check: () => T | undefined | false | Promise<T | undefined | false>,
  o: { timeoutMs: number; intervalMs?: number; signal?: AbortSignal | undefined },
): Promise<T | undefined> {
  const endsAt = Date.now() + o.timeoutMs;
  for (;;) {
    o.signal?.throwIfAborted();
    const answer = await check();
    if (answer !== undefined && answer !== false) return answer;
    if (Date.now() >= endsAt) return undefined;
    await delay(o.intervalMs ?? 50, undefined, o.signal === undefined ? {} : { signal: o.signal });
  }
}

/** True once none of them lives. */
export async function waitGone(processes: readonly ProcessIdentity[], timeoutMs: number): Promise<boolean> {
  return (await pollUntil(() => !processes.some(isAlive), { timeoutMs })) ?? false;
}

/** Sends `first`, waits `graceMs`, then cuts what is left. Resolves when all are gone. */
export async function stopProcesses(
  processes: readonly ProcessIdentity[],
  first: NodeJS.Signals,
  graceMs: number,
): Promise<void> {
  for (const one of processes) signal(one, first);
  if (await waitGone(processes, graceMs)) return;
  for (const one of processes) signal(one, "SIGKILL");
  await waitGone(processes, 5_000);
}
