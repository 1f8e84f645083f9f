import type { Broker, Consumer } from "@muster/broker/broker";
import type { TopologyTarget } from "@muster/broker/topology-apply";
import { urlFor } from "@muster/broker/users";
import { reliabilityHeartbeatsQueue, reliabilityReports } from "@muster/contracts/agents";
import { meshWith, reliabilityCommands } from "@muster/contracts/mesh";
import { reliabilityRequests } from "@muster/contracts/reliability";
import { topologyOf } from "@muster/contracts/topology";
import type { Database } from "@muster/database/database";
import { openInbox } from "@muster/database/inbox";
import type { Closeable, Health } from "@muster/service/start";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { openAudits } from "./audits/audit.ts";
import type { Config } from "./config.ts";
import { openAlarm } from "./dead-letters/alarm.ts";
import { commandHandlers } from "./dead-letters/commands.ts";
import { openCounting } from "./dead-letters/count-open.ts";
import { discarding } from "./dead-letters/discard.ts";
import { getting } from "./dead-letters/get.ts";
import { listing } from "./dead-letters/list.ts";
import { deadLetterQueues } from "./dead-letters/queues.ts";
import { openRecorder } from "./dead-letters/record.ts";
import { replayingMany } from "./dead-letters/replay-many.ts";
import { replaying } from "./dead-letters/replay.ts";
import { openLeader } from "./leader/leader.ts";
import { openMirror } from "./mirror/mirror.ts";
import { openRestorer } from "./mirror/restore.ts";
import { openFleetSize } from "./presence/fleet-size.ts";
import { hearing } from "./presence/heartbeats.ts";
import { nextHeartbeatMs } from "./presence/interval.ts";
import { listingAgents } from "./presence/list.ts";
import { openReconciler } from "./presence/reconcile.ts";
import { pruneJob } from "./sweeps/prune.ts";
import { runningSweep } from "./sweeps/run-sweep.ts";
import { sweepSecretsJob } from "./sweeps/secrets.ts";
import { openSweeping, sweepJob } from "./sweeps/sweep.ts";

export interface ReliabilityOptions {
  readonly config: Config;
  readonly database: Database;
  readonly broker: Broker;
  /** Asks as whoever asked us. */
  readonly onBehalf: Pick<Broker, "request">;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** Closed in reverse order; `health` feeds readiness. */
  own<C extends Closeable>(name: string, closeable: C, health?: (closeable: C) => Health): C;
}

/** Resolves when it consumes, answers and contends for leadership. */
export async function openReliability(o: ReliabilityOptions): Promise<void> {
  const { config, database, broker, onBehalf, logger, metrics, own } = o;
  const topology = topologyOf(
    meshWith({
      type: config.MUSTER_VM_QUEUE_TYPE,
      deliveryLimit: config.MUSTER_VMOPS_DISPATCH_MAX_REQUEUES,
      lengthMax: config.MUSTER_VM_QUEUE_LENGTH_MAX,
    }),
  );
  // The mirror asks who leads; who leads is known last.
  let leads = () => false;
  const mirroring = {
    topology,
    target: keeperOf(config),
    everyMs: config.MUSTER_RELIABILITY_MIRROR_INTERVAL_MS,
    leads: () => leads(),
    logger,
    metrics,
  };
  own("mirror", await openMirror(mirroring), (mirror) => mirror.health());
  own("restorer", openRestorer(mirroring));
  const fleet = own(
    "fleet size",
    openFleetSize({ database, everyMs: config.MUSTER_RELIABILITY_PRESENCE_INTERVAL_MS * 5, logger, metrics }),
  );
  const alarm = openAlarm({ metrics, logger, now: Date.now });
  const sweep = openSweeping({ broker, thresholds: thresholdsOf(config), metrics });

  own(
    "dead letters",
    await openRecorder({
      broker,
      database,
      queues: deadLetterQueues(topology),
      dispatchMaxRequeues: config.MUSTER_VMOPS_DISPATCH_MAX_REQUEUES,
      alarm,
      logger,
    }),
  );
  const inbox = openInbox(database, "reliability.commands");
  // Owned, so that they end before the outbox relay does.
  own("commands", await broker.subscribe(reliabilityCommands, inbox.runOnce, commandHandlers({ alarm })));
  const bounds = boundsOf(config);
  const heartbeat = hearing({
    database,
    nextHeartbeatMs: () => nextHeartbeatMs(fleet.agents(), bounds),
    metrics,
    now: Date.now,
  });
  const heartbeats = own(
    "heartbeats",
    await broker.serveReports(reliabilityHeartbeatsQueue, reliabilityReports, { heartbeat }),
  );
  const requests = await broker.serve("reliability", reliabilityRequests, {
    listDeadLetters: listing({ database }),
    getDeadLetter: getting({ database }),
    replayDeadLetter: replaying({ database, broker: onBehalf }),
    replayDeadLetters: replayingMany({ database, broker: onBehalf }),
    discardDeadLetter: discarding({ database }),
    listAgents: listingAgents({ database }),
    runSweep: runningSweep({ database, broker: onBehalf, sweep }),
  });
  own("requests", requests);
  const leader = own("leader", openLeaderWithJobs(o, { sweep, heartbeats, bounds }), (opened) =>
    opened.health(),
  );
  leads = () => leader.leads;
}

/** What is made and mended is so by the management API's user, over AMQP too: reliability's own may not. */
function keeperOf(config: Config): TopologyTarget {
  const { username, password } = new URL(config.MUSTER_MANAGEMENT_URL);
  const keeper = { name: decodeURIComponent(username), password: decodeURIComponent(password) };
  return {
    amqpUrl: urlFor(config.MUSTER_AMQP_URL, keeper),
    managementUrl: config.MUSTER_MANAGEMENT_URL,
  };
}

const thresholdsOf = (config: Config) => ({
  runningMaxMs: config.MUSTER_VMOPS_RUNNING_MAX_MS,
  dispatchedMaxMs: config.MUSTER_VMOPS_DISPATCHED_MAX_MS,
  dispatchMaxRequeues: config.MUSTER_VMOPS_DISPATCH_MAX_REQUEUES,
});

const boundsOf = (config: Config) => ({
  heartbeatMs: config.MUSTER_RELIABILITY_HEARTBEAT_MS,
  heartbeatsPerSecondMax: config.MUSTER_RELIABILITY_HEARTBEATS_PER_SECOND_MAX,
  suspectAfterMs: config.MUSTER_RELIABILITY_SUSPECT_AFTER_MS,
  lostAfterMs: config.MUSTER_RELIABILITY_LOST_AFTER_MS,
  // A change of leaders is no absence: another takes over in less.
  gapMs: Math.max(10_000, config.MUSTER_RELIABILITY_PRESENCE_INTERVAL_MS * 3),
});

function openLeaderWithJobs(
  { config, database, broker, logger, metrics }: ReliabilityOptions,
  parts: {
    sweep: ReturnType<typeof openSweeping>;
    heartbeats: Consumer;
    bounds: ReturnType<typeof boundsOf>;
  },
) {
  const everyMs = config.MUSTER_RELIABILITY_SWEEP_INTERVAL_MS;
  const presence = openReconciler({
    database,
    bounds: parts.bounds,
    everyMs: config.MUSTER_RELIABILITY_PRESENCE_INTERVAL_MS,
    listening: () => broker.state === "connected" && parts.heartbeats.health().ok,
    metrics,
    logger,
  });
  const audits = openAudits({
    broker,
    database,
    everyMs: config.MUSTER_RELIABILITY_AUDIT_INTERVAL_MS,
    metrics,
    logger,
  });
  const open = openCounting({ database, metrics });
  return openLeader({
    databaseUrl: config.MUSTER_DATABASE_URL,
    checkMs: config.MUSTER_RELIABILITY_LEADER_CHECK_MS,
    jobs: [
      sweepJob({ sweep: parts.sweep, everyMs, limit: config.MUSTER_RELIABILITY_SWEEP_LIMIT }),
      sweepSecretsJob({ broker, everyMs, limit: config.MUSTER_RELIABILITY_SWEEP_LIMIT, metrics }),
      presence,
      audits,
      pruneJob({
        broker,
        database,
        everyMs: config.MUSTER_RELIABILITY_PRUNE_INTERVAL_MS,
        retentionMs: config.MUSTER_RELIABILITY_INBOX_RETENTION_MS,
        metrics,
      }),
      { name: "count-open", everyMs, run: () => open.count() },
    ],
    onRetired: () => [presence, audits, open].forEach((gauges) => gauges.forget()),
    logger,
    metrics,
  });
}
