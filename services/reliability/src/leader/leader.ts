import { openAdvisoryLock } from "@muster/database/advisory-lock";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { startJobs } from "./job.ts";
import type { Job, RunningJobs } from "./job.ts";

export interface LeaderOptions {
  readonly databaseUrl: string;
  readonly checkMs: number;
  readonly jobs: readonly Job[];
  /** Leadership has ended: gauges of the whole system are another's to report now. */
  readonly onRetired?: () => void;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

export interface Leader {
  readonly leads: boolean;
  health(): { ok: boolean; detail: { leader: boolean } };
  close(): Promise<void>;
}

export const leaderLockKey = "muster.reliability.leader";
export const leaderApplicationName = "muster-reliability-leader";

/**
 * Contends for leadership and runs the jobs while it lasts. Every job is safe to run twice at once (owners decide by
 * compare-and-set), so a leader that has not yet noticed its end does no harm.
 */
export function openLeader(o: LeaderOptions): Leader {
  const gauge = o.metrics.gauge({ name: "muster_leader", help: "1 while this process is the leader" });
  gauge.set(0);
  let running: RunningJobs | undefined;
  let retiring: Promise<void> = Promise.resolve();

  function retire(): void {
    gauge.set(0);
    const ended = running;
    running = undefined;
    if (ended === undefined) return;
    retiring = Promise.all([retiring, ended.stop()]).then(() => o.onRetired?.());
  }

  const lock = openAdvisoryLock({
    url: o.databaseUrl,
    key: leaderLockKey,
    applicationName: leaderApplicationName,
    checkMs: o.checkMs,
    logger: o.logger,
    onAcquired: () => {
      gauge.set(1);
      o.logger.info("this process leads");
      running = startJobs(o.jobs, o);
    },
    onLost: (reason) => {
      o.logger.warn({ reason }, "this process leads no more");
      retire();
    },
  });
  let closing: Promise<void> | undefined;
  return {
    get leads() {
      return lock.held;
    },
    health: () => ({ ok: true, detail: { leader: lock.held } }),
    close: () =>
      (closing ??= (async () => {
        retire();
        await retiring;
        // Last: nobody else starts while our own work still runs.
        await lock.close();
      })()),
  };
}
