import {
  reliabilityHeartbeatsQueue,
  reliabilityReports,
  vmCommandDoorbell,
  vmOpsAgentsQueue,
  vmOpsReports,
} from "./agents.ts";
import { authEvents, authRequests } from "./auth.ts";
import { defineSubscription, services, type EventContract } from "./define.ts";
import { agentChanged } from "./pairing.ts";
import type { Hearing, Mesh, VmQueuePolicy } from "./topology.ts";
import {
  agentLost,
  agentRecovered,
  deadLetterRecorded,
  reliabilityEvents,
  reliabilityRequests,
} from "./reliability.ts";
import { secretsAgentsQueue, secretsReports } from "./secret-reports.ts";
import { secretsEvents } from "./secret-events.ts";
import { secretsRequests } from "./secrets.ts";
import {
  commandDeadLettered,
  commandFinished,
  commandReplayed,
  vmOpsEvents,
  vmOpsRequests,
} from "./vm-ops.ts";

/** vm-ops learns who is online: an offline agent burns no requeue. */
export const vmOpsPresence = defineSubscription({
  service: "vm-ops",
  name: "presence",
  summary: "Which agents are online.",
  events: { agentLost, agentRecovered },
});

/** vm-ops lets no agent do what it is not paired for. */
export const vmOpsAgents = defineSubscription({
  service: "vm-ops",
  name: "agent-changes",
  summary: "Which agents are paired, with which epoch, for which VMs.",
  events: { agentChanged },
});

/** What the broker gave up of a VM's queue is put to the requeue policy. */
export const vmOpsDeadLetters = defineSubscription({
  service: "vm-ops",
  name: "dead-letters",
  summary: "Doorbells that the broker gave up.",
  events: { deadLetterRecorded },
});

/** Commands that vm-ops gave up are kept beside the dead messages, until they are put back. */
export const reliabilityCommands = defineSubscription({
  service: "reliability",
  name: "commands",
  summary:
    "Commands that were given up, and put back: an answer that was lost still settles its dead letter.",
  events: { commandDeadLettered, commandReplayed },
});

/** A lease ends with the command that it was given for. */
export const secretsCommands = defineSubscription({
  service: "secrets",
  name: "commands",
  summary: "Commands that ended: nothing is given by their leases any more.",
  events: { commandFinished },
});

/** A key that signs no more, one that begins to, and tokens that are void, must be known at once to everybody who verifies by them. */
const keyHearings: readonly Hearing[] = [
  { event: authEvents.signingKeysChanged, by: ["gateway"] },
  { event: authEvents.meshKeysChanged, by: ["auth", "vm-ops", "reliability", "secrets"] },
  { event: authEvents.tokensRevoked, by: services },
];

/** Everything that travels, in one value: topology, documents, golden files and permissions derive from it. */
export const mesh = {
  requests: {
    auth: authRequests,
    "vm-ops": vmOpsRequests,
    reliability: reliabilityRequests,
    secrets: secretsRequests,
  },
  events: { auth: authEvents, "vm-ops": vmOpsEvents, reliability: reliabilityEvents, secrets: secretsEvents },
  reports: {
    [vmOpsAgentsQueue]: vmOpsReports,
    [reliabilityHeartbeatsQueue]: reliabilityReports,
    [secretsAgentsQueue]: secretsReports,
  },
  doorbells: { vmCommandDoorbell },
  subscriptions: [vmOpsPresence, vmOpsAgents, vmOpsDeadLetters, reliabilityCommands, secretsCommands],
  hearings: keyHearings,
} as const;

/** The same, as the topology derives from it; how VM queues are kept is each installation's setting. */
export function meshWith(vmQueues: VmQueuePolicy): Mesh {
  const eventGroups: Readonly<Record<string, EventContract>>[] = Object.values(mesh.events);
  return {
    events: eventGroups.flatMap((events) => Object.values(events)),
    requests: mesh.requests,
    reports: [
      { service: "vm-ops", queue: vmOpsAgentsQueue, reports: vmOpsReports },
      { service: "reliability", queue: reliabilityHeartbeatsQueue, reports: reliabilityReports },
      { service: "secrets", queue: secretsAgentsQueue, reports: secretsReports },
    ],
    subscriptions: mesh.subscriptions,
    hearings: mesh.hearings,
    doorbells: Object.values(mesh.doorbells),
    vmQueues,
  };
}
