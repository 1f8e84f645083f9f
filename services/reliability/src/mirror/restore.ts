import { applyTopology, planTopology, sentenceOf } from "@muster/broker/topology-apply";
import type { TopologyTarget } from "@muster/broker/topology-apply";
import type { Topology } from "@muster/contracts/topology";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { startJobs } from "../leader/job.ts";

export interface RestorerOptions {
  readonly topology: Topology;
  readonly target: TopologyTarget;
  readonly everyMs: number;
  /** One process at a time declares. */
  readonly leads: () => boolean;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/**
 * Declares again what is gone from the mesh: a service whose queue was deleted cannot be asked until it is there.
 * What is there with other arguments is left to people.
 */
export function openRestorer(o: RestorerOptions): { close(): Promise<void> } {
  const restored = o.metrics.counter({
    name: "muster_topology_restored_total",
    help: "Exchanges, queues and bindings that were gone and were declared again",
    labels: ["what"],
  });

  async function restore(): Promise<void> {
    if (!o.leads()) return;
    const gone = (await planTopology(o.topology, o.target)).filter(
      ({ kind, what }) => kind === "missing" && what !== "policy",
    );
    if (gone.length === 0) return;
    const found = gone.map(sentenceOf).join("; ");
    o.logger.error({ event: "topology_restored", gone: found }, "a part of the mesh is gone; declaring it");
    await applyTopology(o.topology, o.target);
    for (const { what } of gone) restored.inc({ what });
  }

  const running = startJobs([{ name: "restore", everyMs: o.everyMs, run: restore }], o);
  return { close: () => running.stop() };
}
