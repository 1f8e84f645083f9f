import type { Database } from "@muster/database/database";
import type { Metrics } from "@muster/telemetry/metrics";
import { queueKinds } from "./queues.ts";
import { countOpen } from "./store.ts";

/** At the leader: how many dead letters wait for an operator. */
export function openCounting(o: { database: Database; metrics: Metrics }) {
  const gauge = o.metrics.gauge({
    name: "muster_dead_letters_open",
    help: "Dead letters that nobody has replayed or discarded, by the kind of queue they died in",
    labels: ["queue_kind"],
  });
  return {
    async count(): Promise<void> {
      const rows = await o.database.transaction("system", countOpen, { readOnly: true });
      const byKind = new Map(rows.map((row) => [row.queue_kind, row.open]));
      for (const kind of queueKinds) gauge.set({ queue_kind: kind }, byKind.get(kind) ?? 0);
    },
    /** Another is the leader: it counts now. */
    forget: () => gauge.reset(),
  };
}
