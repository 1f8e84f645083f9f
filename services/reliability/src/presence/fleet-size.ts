import type { Database } from "@muster/database/database";
import { startJobs } from "../leader/job.ts";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";

export interface FleetSize {
  /** Agents that send heartbeats, as last counted. */
  agents(): number;
  close(): Promise<void>;
}

/** Every process counts for itself, for the interval that its answers set. */
export function openFleetSize(o: {
  database: Database;
  everyMs: number;
  logger: Logger;
  metrics: Metrics;
}): FleetSize {
  let agents = 0;
  const running = startJobs(
    [
      {
        name: "fleet-size",
        everyMs: o.everyMs,
        run: async () => {
          const rows = await o.database.transaction(
            "system",
            (tx) =>
              tx.query<{ agents: number }>(
                "SELECT count(*) AS agents FROM presence WHERE state IN ('online', 'suspect')",
              ),
            { readOnly: true },
          );
          agents = rows[0]?.agents ?? 0;
        },
      },
    ],
    o,
  );
  return { agents: () => agents, close: () => running.stop() };
}
