import type { Database } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import type { Job } from "../leader/job.ts";
import { lostEvent } from "./events.ts";
import { attend, countStates, markLost, markSuspect } from "./store.ts";
import type { Bounds } from "./store.ts";

export interface ReconcileOptions {
  readonly database: Database;
  readonly bounds: Bounds;
  readonly everyMs: number;
  /** Whether heartbeats reach us at all. */
  readonly listening: () => boolean;
  readonly metrics: Metrics;
  readonly logger: Logger;
}

const states = ["online", "suspect", "lost", "stopped"] as const;
const batchMax = 500;
const roundsMax = 100;

/** At the leader: judges silence, by the database's clock, and only while someone has listened for long enough. */
export function openReconciler(o: ReconcileOptions): Job & { forget(): void } {
  const agents = o.metrics.gauge({
    name: "muster_agents",
    help: "Agents by presence",
    labels: ["state"],
  });
  const lostTotal = o.metrics.counter({ name: "muster_agents_lost_total", help: "Agents that fell silent" });

  async function judge(): Promise<number> {
    const lost = await o.database.transaction("system", async (tx) => {
      await markSuspect(tx, o.bounds.suspectAfterMs, batchMax);
      const rows = await markLost(tx, o.bounds.lostAfterMs, batchMax);
      for (const row of rows) {
        const about = { tenantId: row.tenant_id, agentId: row.agent_id, generation: row.generation };
        tx.publish(lostEvent({ ...about, kind: "lost", at: row.lost_at, lastSeenAt: row.last_seen_at }));
      }
      return rows.length;
    });
    if (lost > 0) {
      lostTotal.inc(lost);
      o.logger.warn({ agents: lost }, "agents are lost");
    }
    return lost;
  }

  return {
    name: "presence",
    everyMs: o.everyMs,
    async run(signal) {
      if (!o.listening()) return;
      await o.database.transaction("system", (tx) => attend(tx, o.bounds.gapMs));
      for (let round = 0; round < roundsMax && !signal.aborted; round++) {
        if ((await judge()) < batchMax) break;
      }
      const counted = await o.database.transaction("system", countStates, { readOnly: true });
      const byState = new Map(counted.map((row) => [row.state, row.agents]));
      for (const state of states) agents.set({ state }, byState.get(state) ?? 0);
    },
    /** Another is the leader: it counts now. */
    forget() {
      agents.reset();
    },
  };
}
