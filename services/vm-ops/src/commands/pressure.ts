import type { Broker } from "@muster/broker/broker";

export interface PressureOptions {
  readonly outbox: () => { readonly depth: number; readonly oldestAgeMs: number };
  readonly brokerState: () => Broker["state"];
  readonly depthMax: number;
  readonly ageMaxMs: number;
}

const retryAfterMs = 2_000;

/** Whether new work would only pile up: the broker takes nothing, or the outbox has fallen behind. */
export function pressureOf(o: PressureOptions): () => { readonly retryAfterMs: number } | undefined {
  return () => {
    if (o.brokerState() === "blocked") return { retryAfterMs };
    const { depth, oldestAgeMs } = o.outbox();
    return depth > o.depthMax || oldestAgeMs > o.ageMaxMs ? { retryAfterMs } : undefined;
  };
}
