import type { Metrics } from "@muster/telemetry/metrics";

export function createCounters(metrics: Metrics) {
  return {
    doorbells: metrics.counter({
      name: "muster_agent_doorbells_total",
      help: "Doorbells by what became of them",
      labels: ["verdict"],
    }),
    claims: metrics.counter({
      name: "muster_agent_claims_total",
      help: "Answers to claims: granted, or the reason of a denial",
      labels: ["answer"],
    }),
    secrets: metrics.counter({
      name: "muster_agent_secrets_total",
      help: "Answers to questions for secrets: given, or the code of a refusal",
      labels: ["answer"],
    }),
    starts: metrics.counter({
      name: "muster_agent_starts_total",
      help: "Attempts that were started, by action",
      labels: ["action"],
    }),
    ends: metrics.counter({
      name: "muster_agent_ends_total",
      help: "Attempts that ended, by outcome and reason",
      labels: ["outcome", "reason"],
    }),
    stored: metrics.counter({
      name: "muster_agent_results_stored_total",
      help: "Results that the mesh has stored, by what as",
      labels: ["as"],
    }),
    staleTokens: metrics.counter({
      name: "muster_agent_stale_tokens_total",
      help: "Reports that were refused because their claim is no longer the current one",
      labels: ["report"],
    }),
    leasesLost: metrics.counter({
      name: "muster_agent_leases_lost_total",
      help: "Leases that ran out on the agent's own clock while the work went on",
    }),
  };
}

export type Counters = ReturnType<typeof createCounters>;
