import type { Broker } from "@muster/broker/broker";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { Database } from "@muster/database/database";
import type { Metrics } from "@muster/telemetry/metrics";
import type { Logger } from "@muster/telemetry/logger";
import type { Job } from "../leader/job.ts";
import { ownContext } from "../sweeps/sweep.ts";

export interface AuditOptions {
  readonly broker: Pick<Broker, "request">;
  readonly database: Database;
  readonly everyMs: number;
  readonly metrics: Metrics;
  readonly logger: Logger;
}

const audits = ["lost_commands", "double_starts", "outbox_stale"] as const;
type Counts = Record<(typeof audits)[number], number>;

/** At the leader: counts what must never be. Each gauge must be 0. */
export function openAudits(o: AuditOptions): Job & { forget(): void } {
  const gauge = o.metrics.gauge({
    name: "muster_audit",
    help: "Violations of what must always hold, as last counted: must be 0",
    labels: ["audit"],
  });
  const countedAt = o.metrics.gauge({
    name: "muster_audit_counted_timestamp_seconds",
    help: "When the audits were last counted to the end",
  });
  return {
    name: "audit",
    everyMs: o.everyMs,
    async run(signal) {
      const own = await countOwn(o.database);
      const theirs = await o.broker.request(vmOpsRequests.auditVmOps, {}, ownContext(), { signal });
      const counts: Counts = {
        lost_commands: theirs.lost_commands,
        double_starts: theirs.double_starts + own.double_starts,
        outbox_stale: theirs.outbox_stale + own.outbox_stale,
      };
      for (const audit of audits) gauge.set({ audit }, counts[audit]);
      countedAt.set(Date.now() / 1_000);
      if (audits.some((audit) => counts[audit] > 0)) o.logger.error(counts, "an audit found violations");
    },
    /** Another is the leader: it counts now. */
    forget() {
      gauge.reset();
    },
  };
}

/** Starts that agents' journals hold more than once, and our own messages that wait for longer than a minute. */
async function countOwn(database: Database): Promise<Pick<Counts, "double_starts" | "outbox_stale">> {
  const rows = await database.transaction(
    "system",
    (tx) =>
      tx.query<{ double_starts: number; outbox_stale: number }>(
        `SELECT (SELECT coalesce(sum(least(journal_double_starts, 1000000)), 0)::bigint FROM presence) AS double_starts,
           (SELECT count(*) FROM outbox WHERE created_at < now() - interval '1 minute') AS outbox_stale`,
      ),
    { readOnly: true },
  );
  return rows[0] ?? { double_starts: 0, outbox_stale: 0 };
}
