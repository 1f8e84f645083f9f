import type { Broker } from "@muster/broker/broker";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { Database } from "@muster/database/database";
import { pruneInbox } from "@muster/database/inbox";
import type { Metrics } from "@muster/telemetry/metrics";
import type { Job } from "../leader/job.ts";
import { ownContext } from "./sweep.ts";

export interface PruneOptions {
  readonly broker: Pick<Broker, "request">;
  readonly database: Database;
  readonly everyMs: number;
  /** Longer than any message may still come again. */
  readonly retentionMs: number;
  readonly metrics: Metrics;
}

const limit = 10_000;
const roundsMax = 100;

/** At the leader: has old inbox rows removed, everyone's by its owner and our own. */
export function pruneJob(o: PruneOptions): Job {
  const removed = o.metrics.counter({
    name: "muster_pruned_inbox_rows_total",
    help: "Inbox rows removed because they are old, by their owner",
    labels: ["owner"],
  });
  const owners: { owner: string; prune: (signal: AbortSignal) => Promise<number> }[] = [
    { owner: "reliability", prune: () => pruneInbox(o.database, o.retentionMs, limit) },
    { owner: "vm-ops", prune: (signal) => askVmOps(o, signal) },
  ];
  return {
    name: "prune",
    everyMs: o.everyMs,
    async run(signal) {
      for (const { owner, prune } of owners) {
        for (let round = 0; round < roundsMax && !signal.aborted; round++) {
          const count = await prune(signal);
          removed.inc({ owner }, count);
          if (count < limit) break;
        }
      }
    },
  };
}

async function askVmOps(o: PruneOptions, signal: AbortSignal): Promise<number> {
  const payload = { older_than_ms: o.retentionMs, limit };
  const reply = await o.broker.request(vmOpsRequests.pruneVmOps, payload, ownContext(), { signal });
  return reply.removed;
}
