import { fullJitterMs } from "@muster/broker/waiting";
import type { Reports } from "../reports/reports.ts";
import { SessionClosed } from "../session/session.ts";
import type { Counters } from "./counters.ts";
import type { Held } from "./held.ts";

const backoff = { baseMs: 1_000, maxMs: 15_000 } as const;

/** Spreads what would otherwise beat together: 80 to 120 % of `ms`. */
export function jittered(ms: number, random: () => number = Math.random): number {
  return ms * (0.8 + 0.4 * random());
}

/**
 * Renews the lease of running work and brings the desired state to it, until `over`. A lease that runs out on the agent's
 * clock ends nothing: stopping half-done work is worse than a late result.
 */
export async function keepLease(
  held: Held,
  firstMs: number,
  signal: AbortSignal,
  { reports, counters }: { readonly reports: Reports; readonly counters: Counters },
): Promise<void> {
  if (held.leaseKept) return;
  held.leaseKept = true;
  const over = (): boolean => held.over || signal.aborted;
  let lost = false;
  let waitMs = firstMs;
  for (let failures = 0; ;) {
    if (waitMs > 0) await held.alarm.sleep(waitMs);
    if (over() || held.token === undefined) return;
    if (!lost && performance.now() > held.leaseEndsMs && held.leaseEndsMs > 0) {
      lost = true;
      counters.leasesLost.inc();
      held.logger.warn("the lease ran out while the mesh was away; the work goes on");
    }
    try {
      const { commandId, attempt } = held.key;
      const answer = await reports.progress({ command_id: commandId, attempt, token: held.token });
      failures = 0;
      if (over()) return;
      if (answer.outcome === "renewed") {
        lost = false;
        held.leaseEndsMs = answer.sentAtMs + answer.lease_ms;
        waitMs = jittered(Math.max(answer.next_renew_ms, 100));
        if (answer.desired === "cancel") {
          held.cancelled = true;
          held.waiting?.abort("cancelled");
          held.running?.stop();
        }
      } else if (answer.outcome === "retry") {
        waitMs = jittered(Math.max(answer.retry_after_ms, 100));
      } else {
        if (answer.outcome === "refused") counters.staleTokens.inc({ report: "progress" });
        held.waiting?.abort("lost");
        held.logger.warn({ answer: answer.outcome }, "the lease is no longer renewed; the work goes on");
        return;
      }
    } catch (error) {
      if (error instanceof SessionClosed || over()) return;
      held.logger.debug({ err: error }, "progress was not answered");
      waitMs = 100 + fullJitterMs(failures++, backoff.baseMs, backoff.maxMs);
    }
  }
}
