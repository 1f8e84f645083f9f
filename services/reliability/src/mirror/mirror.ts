import { applyTopology, planTopology, repairStuckQueues, sentenceOf } from "@muster/broker/topology-apply";
import type { TopologyTarget } from "@muster/broker/topology-apply";
import { deadLettersExchange, deadLettersQueue } from "@muster/contracts/topology";
import type { Topology } from "@muster/contracts/topology";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { startJobs } from "../leader/job.ts";

export interface MirrorOptions {
  readonly topology: Topology;
  readonly target: TopologyTarget;
  readonly everyMs: number;
  /** Whether this process mends what has drifted; the others only see it. */
  readonly leads: () => boolean;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

export interface Mirror {
  health(): { ok: boolean; reason?: string };
  close(): Promise<void>;
}

/** The part of the topology in which the broker's hand of the requeue policy lies. */
export function mirroredPart(topology: Topology): Topology {
  const parking = deadLettersQueue("vm");
  return {
    exchanges: topology.exchanges.filter(({ name }) => name === deadLettersExchange),
    queues: topology.queues.filter(({ name }) => name === parking),
    bindings: topology.bindings.filter(({ queue }) => queue === parking),
    policies: topology.policies.filter(({ name }) => name === "vm" || name === parking),
  };
}

/**
 * Keeps the broker's policy for the VMs' queues equal to the requeue policy: applied at start, looked at every
 * `everyMs`, and mended by the leader. Not ready while it differs. Resolves after the first look, good or bad.
 */
export async function openMirror(o: MirrorOptions): Promise<Mirror> {
  const part = mirroredPart(o.topology);
  const mended = o.metrics.counter({
    name: "muster_mirror_mended_total",
    help: "Differences between the broker's requeue policy and ours that were mended",
  });
  const repaired = o.metrics.counter({
    name: "muster_topology_queues_repaired_total",
    help: "Declared queues that answered nothing any more and were made anew",
    labels: ["queue"],
  });
  let reason: string | undefined = "the broker's requeue policy has not been looked at yet";
  let mayMend = true;

  async function look(): Promise<void> {
    try {
      const drift = await planTopology(part, o.target);
      if (drift.length === 0) {
        reason = undefined;
        return;
      }
      const found = drift.map(sentenceOf).join("; ");
      reason = `the broker's requeue policy differs: ${found}`;
      if (!mayMend && !o.leads()) return;
      o.logger.warn({ drift: found }, "the broker's requeue policy differs; applying it");
      mended.inc((await applyTopology(part, o.target)).length);
      const left = await planTopology(part, o.target);
      reason = left.length === 0 ? undefined : `cannot mend: ${left.map(sentenceOf).join("; ")}`;
    } catch (error) {
      reason = error instanceof Error ? error.message : String(error);
      throw error;
    }
  }

  async function repair(): Promise<void> {
    if (!o.leads()) return;
    for (const queue of await repairStuckQueues(o.topology, o.target)) {
      repaired.inc({ queue });
      o.logger.error(
        { event: "queue_repaired", queue },
        "a queue answered nothing any more; it was made anew",
      );
    }
  }

  await look().catch((error: unknown) =>
    o.logger.warn({ err: error }, "the broker's requeue policy is unknown"),
  );
  mayMend = reason !== undefined;
  const running = startJobs(
    [
      {
        name: "mirror",
        everyMs: o.everyMs,
        run: async () => {
          await look();
          mayMend = false;
        },
      },
      { name: "queue repair", everyMs: o.everyMs, run: repair },
    ],
    o,
  );
  return {
    health: () => (reason === undefined ? { ok: true } : { ok: false, reason }),
    close: () => running.stop(),
  };
}
