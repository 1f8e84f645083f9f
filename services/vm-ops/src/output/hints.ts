import { liveExchange } from "@muster/contracts/topology";
import type { Broker } from "@muster/broker/broker";

/** Wakes whoever watches a command. Lossy: reads are authoritative. */
export interface Hints {
  changed(commandId: string): void;
  close(): Promise<void>;
}

const quietMs = 50;
/** 1 000 a second. A watcher looks each second in any case; beyond this rate hints would cost more than they tell. */
const perQuietMax = 50;
/** What would be hinted later than the watcher looks by himself is not remembered. */
const rememberedMax = 1_000;

/**
 * The first hint of a command goes at once, further ones together at the end of each 50 ms; what exceeds the rate waits
 * for a later one, and is dropped where too many wait.
 */
export function openHints(broker: Pick<Broker, "hint">): Hints {
  /** Command → something changed since its last hint. */
  const recent = new Map<string, boolean>();
  let timer: NodeJS.Timeout | undefined;
  let left = perQuietMax;

  function send(commandId: string): void {
    left -= 1;
    broker.hint(liveExchange, commandId, { command_id: commandId });
  }

  function tick(): void {
    timer = undefined;
    left = perQuietMax;
    for (const [commandId, changed] of [...recent]) {
      if (changed && left === 0) continue;
      recent.delete(commandId);
      if (!changed) continue;
      send(commandId);
      // At the end of the line: whoever has waited longest comes first.
      recent.set(commandId, false);
    }
    arm();
  }

  function arm(): void {
    if (recent.size === 0 || timer !== undefined) return;
    timer = setTimeout(tick, quietMs);
    timer.unref();
  }

  return {
    changed(commandId) {
      if (recent.has(commandId)) return void recent.set(commandId, true);
      const now = left > 0;
      if (now) send(commandId);
      if (recent.size < rememberedMax) recent.set(commandId, !now);
      arm();
    },
    close() {
      clearTimeout(timer);
      for (const [commandId, changed] of recent) if (changed) send(commandId);
      recent.clear();
      return Promise.resolve();
    },
  };
}
