import { setTimeout as pause } from "node:timers/promises";

/** How soon a fetch that a change asked for is tried again. */
const refreshRetryMs = 500;

/** Reloads when woken, and again after a while for as long as that fails. */
export function openRefresher(what: { reload(): Promise<void> }) {
  const closing = new AbortController();
  let wanted = false;
  let running: Promise<void> | undefined;

  async function run(): Promise<void> {
    while (wanted && !closing.signal.aborted) {
      wanted = false;
      try {
        await what.reload();
      } catch {
        // It has told of it.
        wanted = true;
        await pause(refreshRetryMs, undefined, { signal: closing.signal, ref: false }).catch(() => undefined);
      }
    }
    running = undefined;
  }
  return {
    wake(): void {
      wanted = true;
      running ??= run();
    },
    close(): void {
      closing.abort();
    },
  };
}
