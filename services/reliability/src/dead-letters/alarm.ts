import type { Metrics } from "@muster/telemetry/metrics";
import type { Logger } from "@muster/telemetry/logger";
import { serviceLabelOf } from "./queues.ts";

export interface DeadLetterAlarm {
  recorded(queue: string, reason: string, type: string): void;
}

/** As the broker names them, and as we do; every other is one label. */
const reasons: ReadonlySet<string> = new Set(["rejected", "delivery_limit", "expired", "maxlen", "unrouted"]);

/** Dead letters closer together than this are one burst, and one line in the log. */
const burstMs = 60_000;

/** Counts every dead letter, and logs the first of a burst as an error; the next burst's line says how many there were. */
export function openAlarm(o: { metrics: Metrics; logger: Logger; now: () => number }): DeadLetterAlarm {
  const total = o.metrics.counter({
    name: "muster_dead_letters_total",
    help: "Dead letters recorded, by whose queue they died in and why",
    labels: ["service", "reason"],
  });
  let lastMs = -Infinity;
  let silent = 0;
  return {
    recorded(queue, reason, type) {
      total.inc({ service: serviceLabelOf(queue), reason: reasons.has(reason) ? reason : "other" });
      const nowMs = o.now();
      const fresh = nowMs - lastMs > burstMs;
      lastMs = nowMs;
      if (!fresh) {
        silent += 1;
        return;
      }
      o.logger.error({ queue, reason, type, unlogged_before: silent }, "dead letter recorded");
      silent = 0;
    },
  };
}
