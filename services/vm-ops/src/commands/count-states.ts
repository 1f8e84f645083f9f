import type { Database } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import type { VmOpsMetrics } from "../metrics.ts";

const everyMs = 15_000;
const countMax = 100_000;
const states = ["awaiting_approval", "queued", "dispatched", "running"] as const;

/** Keeps the gauge of commands that have not ended, by a count that stops at 100 000 for each phase. */
export function openStateCounter(o: {
  database: Pick<Database, "transaction">;
  metrics: VmOpsMetrics;
  logger: Logger;
}): { close(): Promise<void> } {
  async function count(): Promise<void> {
    const rows = await o.database.transaction(
      "system",
      (tx) =>
        tx.query<{ state: string; count: number }>(
          `SELECT state, count(*)::integer AS count FROM (
             (SELECT state FROM commands WHERE phase = 'waiting' LIMIT ${countMax})
             UNION ALL (SELECT state FROM commands WHERE phase = 'running' LIMIT ${countMax})) active
           GROUP BY state`,
        ),
      { readOnly: true },
    );
    const counts = new Map(rows.map((row) => [row.state, row.count]));
    for (const state of states) o.metrics.commands.set({ state }, counts.get(state) ?? 0);
  }
  let running = Promise.resolve();
  const again = (): void => {
    running = count().catch((error: unknown) => {
      o.logger.debug({ err: error }, "commands could not be counted");
    });
  };
  again();
  const timer = setInterval(again, everyMs);
  timer.unref();
  return {
    async close() {
      clearInterval(timer);
      await running;
    },
  };
}
