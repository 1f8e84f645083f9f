import { liveExchange } from "@muster/contracts/topology";
import type { Broker } from "@muster/broker/broker";

/** Wakes whoever watches a command. Lossy: reads are authoritative. */
export interface Hints {
  changed(commandId: string): void;
  close(): Promise<void>;
}

const quietMs = 50;
/** More are not remembered but hinted at once. */
const rememberedMax = 10_000;

/** The first hint of a command goes at once, further ones together at the end of each 50 ms. */
export function openHints(broker: Pick<Broker, "hint">): Hints {
  /** Command → something changed since its last hint. */
  const recent = new Map<string, boolean>();
  let timer: NodeJS.Timeout | undefined;

  const send = (commandId: string): void => broker.hint(liveExchange, commandId, { command_id: commandId });

  function tick(): void {
    timer = undefined;
    for (const [commandId, changed] of recent) {
      if (!changed) recent.delete(commandId);
      else {
        send(commandId);
        recent.set(commandId, false);
      }
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
      send(commandId);
      if (recent.size < rememberedMax) recent.set(commandId, false);
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
