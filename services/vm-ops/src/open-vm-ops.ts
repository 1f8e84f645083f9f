import type { Broker, ReportHandlers, RequestHandlers, ServeOptions } from "@muster/broker/broker";
import { vmOpsAgentsQueue, vmOpsReports } from "@muster/contracts/agents";
import { vmOpsAgents, vmOpsDeadLetters, vmOpsPresence } from "@muster/contracts/mesh";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { Database, Tx } from "@muster/database/database";
import { openInbox, pruneInbox } from "@muster/database/inbox";
import { openOutboxRelay } from "@muster/database/outbox";
import type { Closeable, Health } from "@muster/service/start";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { getAttempt } from "./agents/attempt.ts";
import { claimCommands } from "./agents/claim.ts";
import { openClaimTokens } from "./agents/claim-tokens.ts";
import { greet } from "./agents/hello.ts";
import { openLastSeen } from "./agents/last-seen.ts";
import { notePairings } from "./agents/pairing.ts";
import { notePresence } from "./agents/presence.ts";
import { takeReports } from "./agents/report.ts";
import { fromAgents } from "./agents/sender.ts";
import { acceptCommands } from "./commands/accept.ts";
import { cancelCommand } from "./commands/cancel.ts";
import { confirmDoorbells } from "./commands/confirm-doorbells.ts";
import { openStateCounter } from "./commands/count-states.ts";
import { acceptFollowUp } from "./commands/follow-up.ts";
import { getCommand } from "./commands/get.ts";
import { judgeDeadLetters } from "./commands/judge-dead-letters.ts";
import { listCommands } from "./commands/list.ts";
import { listCommandEvents } from "./commands/list-events.ts";
import { pressureOf } from "./commands/pressure.ts";
import { replayCommand } from "./commands/replay.ts";
import type { Config } from "./config.ts";
import { createVmOpsMetrics } from "./metrics.ts";
import { openHints } from "./output/hints.ts";
import { makePace } from "./output/pace.ts";
import { readOutput } from "./output/read.ts";
import { takeOutput } from "./output/take.ts";
import { ageOf } from "./sweeps/age.ts";
import { auditCommands } from "./sweeps/audit.ts";
import { openLiveness } from "./sweeps/liveness.ts";
import { sweepCommands } from "./sweeps/sweep.ts";
import { openVmQueues } from "./vms/queues.ts";
import { getVm, listVms } from "./vms/read.ts";
import { registerVm } from "./vms/register.ts";
import { retireVm } from "./vms/retire.ts";
import { updateVm } from "./vms/update.ts";

export interface VmOpsOptions {
  readonly config: Config;
  readonly database: Database;
  readonly broker: Broker;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** Closed in reverse order; `health` feeds readiness. */
  own<C extends Closeable>(name: string, closeable: C, health?: (closeable: C) => Health): C;
}

/** Resolves when it answers, hears agents, and publishes what it writes. */
export async function openVmOps(o: VmOpsOptions): Promise<void> {
  const { broker, own, config } = o;
  const parts = await openParts(o);
  const batches: ServeOptions = { batchConcurrency: config.MUSTER_VMOPS_BATCH_CONCURRENCY };

  const presence = openInbox(o.database, "vm-ops.presence");
  own(
    "presence",
    await broker.subscribe(vmOpsPresence, presence.runOnce, {
      agentLost: (tx: Tx, events) => notePresence(tx, events, false),
      agentRecovered: (tx: Tx, events) => notePresence(tx, events, true),
    }),
  );
  const changes = openInbox(o.database, "vm-ops.agent-changes");
  own(
    "agent changes",
    await broker.subscribe(vmOpsAgents, changes.runOnce, {
      agentChanged: (tx: Tx, events) => notePairings(tx, events),
    }),
  );
  const deadLetters = openInbox(o.database, "vm-ops.dead-letters");
  own(
    "dead letters",
    await broker.subscribe(vmOpsDeadLetters, deadLetters.runOnce, {
      deadLetterRecorded: (tx: Tx, events) => judgeDeadLetters(tx, parts.metrics, events),
    }),
  );
  own("agents", await broker.serveReports(vmOpsAgentsQueue, vmOpsReports, reportHandlers(parts), batches));
  own("requests", await broker.serve("vm-ops", vmOpsRequests, requestHandlers(parts), batches));
}

type Parts = Awaited<ReturnType<typeof openParts>>;

async function openParts({ config, database, broker, logger, metrics: registry, own }: VmOpsOptions) {
  const metrics = createVmOpsMetrics(registry);
  const leaseMs = config.MUSTER_VMOPS_LEASE_MS;
  const tokens = await openClaimTokens(database);
  const hints = own("hints", openHints(broker));
  const lastSeen = own("last seen", openLastSeen({ database, logger }));
  const queues = own("vm queues", openVmQueues({ database, broker, metrics, logger }));
  own(
    "outbox relay",
    await openOutboxRelay({
      database,
      publish: (message) => queues.publish(message),
      onRouted: async (tx, rows) => {
        const confirmed = await confirmDoorbells(tx, rows);
        for (const id of confirmed) hints.changed(id);
        const labels = { from: "queued", to: "dispatched", reason: "doorbell_confirmed" };
        metrics.transitions.inc(labels, confirmed.length);
      },
      onUnroutable: (message) => queues.onUnroutable(message),
      logger,
      metrics: registry,
    }),
  );
  own("liveness", await openLiveness({ database, broker, leaseMs, metrics, logger }));
  own("state counter", openStateCounter({ database, metrics, logger }));
  const pressure = pressureOf({
    outbox: () => database.outboxState(),
    brokerState: () => broker.state,
    depthMax: config.MUSTER_VMOPS_OUTBOX_DEPTH_MAX,
    ageMaxMs: config.MUSTER_VMOPS_OUTBOX_AGE_MAX_MS,
  });
  return {
    ...{ database, metrics, leaseMs, tokens, hints, lastSeen, queues, logger, pressure, pace: makePace() },
    waitingMax: config.MUSTER_VMOPS_VM_WAITING_MAX,
    heartbeatMs: config.MUSTER_RELIABILITY_HEARTBEAT_MS,
    // Told to stop, an agent sends TERM, waits, kills, and has a lease to say so.
    forceMs: 60_000 + leaseMs,
  };
}

function reportHandlers(parts: Parts): ReportHandlers<typeof vmOpsReports> {
  return {
    hello: fromAgents((items) => greet(parts, items)),
    claim: fromAgents((items) => claimCommands(parts, items)),
    report: fromAgents((items) => takeReports(parts, items)),
    output: fromAgents((items) => takeOutput(parts, items)),
  };
}

function requestHandlers(parts: Parts): RequestHandlers<typeof vmOpsRequests> {
  const { database } = parts;
  return {
    registerVm: (payload, context) => registerVm(parts, payload, context),
    listVms: (payload, context) => listVms(database, payload, context),
    getVm: ({ vm_uuid }, context) => getVm(database, vm_uuid, context),
    updateVm: (payload, context) => updateVm(database, payload, context),
    retireVm: ({ vm_uuid }, context) => retireVm(parts, vm_uuid, context),
    acceptCommand: (items) => acceptCommands(parts, items),
    acceptFollowUp: (payload, context) => acceptFollowUp(parts, payload, context),
    listCommands: (payload, context) => listCommands(database, payload, context),
    getCommand: ({ command_id }, context) => getCommand(database, command_id, context),
    listCommandEvents: (payload, context) => listCommandEvents(database, payload, context),
    readOutput: (payload, context) => readOutput(database, payload, context),
    cancelCommand: (payload, context) => cancelCommand(parts, payload, context),
    replayCommand: (payload, context) => replayCommand(parts, payload, context),
    getAttempt: (payload) => getAttempt(parts, payload),
    sweepCommands: (payload) => sweepCommands(parts, payload),
    pruneVmOps: async ({ older_than_ms, limit }) => ({
      removed: await pruneInbox(database, ageOf(older_than_ms), limit),
    }),
    auditVmOps: () => auditCommands(database),
  };
}
