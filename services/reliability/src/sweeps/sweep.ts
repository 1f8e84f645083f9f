import type { Broker } from "@muster/broker/broker";
import type { PayloadInputOf, ReplyOf } from "@muster/contracts/define";
import type { WorkContext } from "@muster/contracts/envelope";
import { uuidv7 } from "@muster/contracts/ids";
import { sweepRules, vmOpsRequests } from "@muster/contracts/vm-ops";
import { newTraceparent } from "@muster/telemetry/context";
import type { Metrics } from "@muster/telemetry/metrics";
import type { Job } from "../leader/job.ts";

export interface Thresholds {
  readonly runningMaxMs: number;
  readonly dispatchedMaxMs: number;
  readonly dispatchMaxRequeues: number;
}

type Sweep = typeof vmOpsRequests.sweepCommands;
export type SweepReport = ReplyOf<Sweep>;
type Asked = Pick<PayloadInputOf<Sweep>, "rules" | "limit" | "dry_run">;

export interface SweepParts {
  readonly broker: Pick<Broker, "request">;
  readonly thresholds: Thresholds;
  readonly metrics: Metrics;
}

export type AskToSweep = (
  asked: Asked,
  context: WorkContext,
  options?: { timeoutMs?: number; signal?: AbortSignal },
) => Promise<SweepReport>;

/** Asks vm-ops to sweep its own tables by our thresholds, and counts what it did. Throws MusterError. */
export function openSweeping({ broker, thresholds, metrics }: SweepParts): AskToSweep {
  const commands = metrics.counter({
    name: "muster_sweep_commands_total",
    help: "Commands that sweeps changed, by rule and what became of them",
    labels: ["rule", "outcome"],
  });
  const sweeps = metrics.counter({
    name: "muster_sweeps_total",
    help: "Sweeps asked for, by their outcome",
    labels: ["outcome"],
  });
  const amnesty = metrics.gauge({
    name: "muster_sweep_amnesty_seconds",
    help: "How long leases are still forgiven after an outage, as the last sweep said",
  });
  return async (asked, context, options) => {
    const payload = {
      ...asked,
      running_max_ms: thresholds.runningMaxMs,
      dispatched_max_ms: thresholds.dispatchedMaxMs,
      dispatch_max_requeues: thresholds.dispatchMaxRequeues,
    };
    try {
      const report = await broker.request(vmOpsRequests.sweepCommands, payload, context, options);
      sweeps.inc({ outcome: report.dry_run ? "dry_run" : "done" });
      amnesty.set(report.amnesty_ms / 1_000);
      for (const { rule, expired, requeued, dead_lettered } of report.dry_run ? [] : report.rules) {
        commands.inc({ rule, outcome: "expired" }, expired);
        commands.inc({ rule, outcome: "requeued" }, requeued);
        commands.inc({ rule, outcome: "dead_lettered" }, dead_lettered);
      }
      return report;
    } catch (error) {
      sweeps.inc({ outcome: "failed" });
      throw error;
    }
  };
}

/** More than this many rounds at a time would keep the leader from noticing that it should stop. */
const roundsMax = 200;

/** At the leader: sweeps until nothing is left, then again at the next interval. */
export function sweepJob(o: { sweep: AskToSweep; everyMs: number; limit: number }): Job {
  return {
    name: "sweep",
    everyMs: o.everyMs,
    async run(signal) {
      for (let round = 0; round < roundsMax && !signal.aborted; round++) {
        const asked = { rules: [...sweepRules], limit: o.limit, dry_run: false };
        const report = await o.sweep(asked, ownContext(), { signal });
        if (!report.more) return;
      }
    },
  };
}

/** Of work that nobody asked for. */
export const ownContext = (): WorkContext => ({ correlationId: uuidv7(), traceparent: newTraceparent() });
