import type { Broker } from "@muster/broker/broker";
import { secretsRequests } from "@muster/contracts/secrets";
import type { Metrics } from "@muster/telemetry/metrics";
import type { Job } from "../leader/job.ts";
import { ownContext } from "./sweep.ts";

const roundsMax = 100;

/** At the leader: has secrets end leases that have expired, and clear away what a crash left half done. */
export function sweepSecretsJob(o: {
  readonly broker: Pick<Broker, "request">;
  readonly everyMs: number;
  readonly limit: number;
  readonly metrics: Metrics;
}): Job {
  const swept = o.metrics.counter({
    name: "muster_sweep_secrets_total",
    help: "Leases that sweeps ended, and versions that they cleared out of the vault",
    labels: ["outcome"],
  });
  return {
    name: "sweep-secrets",
    everyMs: o.everyMs,
    async run(signal) {
      for (let round = 0; round < roundsMax && !signal.aborted; round++) {
        const payload = { limit: o.limit };
        const report = await o.broker.request(secretsRequests.sweepSecrets, payload, ownContext(), {
          signal,
        });
        swept.inc({ outcome: "expired" }, report.expired);
        swept.inc({ outcome: "cleared" }, report.cleared);
        if (!report.more) return;
      }
    },
  };
}
