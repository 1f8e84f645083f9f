import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";

/** Scheduled work of the leader. `run` is idempotent, bounded, and heeds the signal between its steps. */
export interface Job {
  readonly name: string;
  readonly everyMs: number;
  run(signal: AbortSignal): Promise<void>;
}

export interface RunningJobs {
  /** Resolves when no job runs any more. */
  stop(): Promise<void>;
}

/** What failed, as all does while a server is away, does not wait for its turn: that may be minutes away. */
const failedEveryMs = 3_000;

/** Runs each job now and then every `everyMs`, never one over itself; a run that is late is not made up for. */
export function startJobs(
  jobs: readonly Job[],
  o: { logger: Logger; metrics: Metrics; now?: () => number },
): RunningJobs {
  const now = o.now ?? (() => performance.now());
  const stopping = new AbortController();
  const runs = o.metrics.counter({
    name: "muster_leader_jobs_total",
    help: "Runs of the leader's scheduled work",
    labels: ["job", "outcome"],
  });
  const failing = new Set<string>();

  /** Resolves with how long after its start the job runs again. */
  async function runOnce(job: Job): Promise<number> {
    try {
      await job.run(stopping.signal);
      runs.inc({ job: job.name, outcome: "done" });
      if (failing.delete(job.name)) o.logger.info({ job: job.name }, "scheduled work goes through again");
      return job.everyMs;
    } catch (error) {
      if (stopping.signal.aborted) return 0;
      runs.inc({ job: job.name, outcome: "failed" });
      const fields = { job: job.name, err: error };
      if (failing.has(job.name)) o.logger.debug(fields, "scheduled work still fails");
      else o.logger.warn(fields, "scheduled work failed; it is tried again soon");
      failing.add(job.name);
      return Math.min(job.everyMs, failedEveryMs);
    }
  }

  async function keepRunning(job: Job): Promise<void> {
    while (!stopping.signal.aborted) {
      const startedMs = now();
      const everyMs = await runOnce(job);
      await waitFor(Math.max(0, everyMs - (now() - startedMs)), stopping.signal);
    }
  }

  const running = Promise.all(jobs.map(keepRunning));
  return {
    async stop() {
      stopping.abort();
      await running;
    },
  };
}

/** Resolves after the time, or when stopped. */
function waitFor(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
