import type { Counter, Gauge, Histogram, Metrics } from "@muster/telemetry/metrics";

/** What vm-ops counts. Every label has a closed set of values. */
export interface VmOpsMetrics {
  readonly accepted: Counter;
  readonly transitions: Counter;
  readonly commands: Gauge;
  readonly dispatchToAck: Histogram;
  readonly ackToTerminal: Histogram;
  readonly claims: Counter;
  readonly results: Counter;
  readonly staleReports: Counter;
  readonly outputBytes: Counter;
  readonly sweeps: Counter;
  readonly requeueVerdicts: Counter;
  readonly amnesty: Gauge;
  readonly quarantines: Counter;
  readonly queuesMade: Counter;
}

const runSeconds = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3_600, 14_400];

export function createVmOpsMetrics(metrics: Metrics): VmOpsMetrics {
  return {
    accepted: metrics.counter({
      name: "muster_vmops_accept_total",
      help: "Requests to accept a command by what became of them: accepted, replayed, or the error's code",
      labels: ["outcome"],
    }),
    transitions: metrics.counter({
      name: "muster_vmops_transitions_total",
      help: "Changes of a command's state",
      labels: ["from", "to", "reason"],
    }),
    commands: metrics.gauge({
      name: "muster_vmops_commands",
      help: "Commands that have not ended, by state, as last counted",
      labels: ["state"],
    }),
    dispatchToAck: metrics.histogram({
      name: "muster_vmops_dispatch_to_ack_seconds",
      help: "From the confirmed doorbell to the granted claim",
    }),
    ackToTerminal: metrics.histogram({
      name: "muster_vmops_ack_to_terminal_seconds",
      help: "From the granted claim to the terminal state",
      buckets: runSeconds,
    }),
    claims: metrics.counter({
      name: "muster_vmops_claims_total",
      help: "Claims granted and denied",
      labels: ["outcome", "reason"],
    }),
    results: metrics.counter({
      name: "muster_vmops_results_total",
      help: "Results by outcome and how they were stored",
      labels: ["outcome", "stored_as"],
    }),
    staleReports: metrics.counter({
      name: "muster_vmops_stale_reports_total",
      help: "Reports refused for a token that is not the current one",
      labels: ["report"],
    }),
    outputBytes: metrics.counter({
      name: "muster_vmops_output_bytes_total",
      help: "Bytes of output stored, before the middle of much output is cut",
    }),
    sweeps: metrics.counter({
      name: "muster_vmops_swept_total",
      help: "Commands that a sweep changed",
      labels: ["rule", "outcome"],
    }),
    requeueVerdicts: metrics.counter({
      name: "muster_vmops_requeue_verdicts_total",
      help: "What the requeue policy said of doorbells that led to no claim",
      labels: ["hand", "verdict"],
    }),
    amnesty: metrics.gauge({
      name: "muster_vmops_amnesty_seconds",
      help: "How long leases are still forgiven after an outage",
    }),
    quarantines: metrics.counter({
      name: "muster_vmops_quarantined_hellos_total",
      help: "Hellos of agents whose journal or generation ran backwards",
    }),
    queuesMade: metrics.counter({
      name: "muster_vmops_vm_queues_total",
      help: "Queues of VMs made and removed",
      labels: ["operation"],
    }),
  };
}
