import type { Service } from "./define.ts";
import { deadLettersKeeper } from "./senders.ts";
import {
  agentsExchange,
  deadLettersExchange,
  eventsExchange,
  liveExchange,
  requestsExchange,
  requestsQueue,
  retryExchange,
  subscriptionQueue,
  vmQueue,
  type Mesh,
  type Topology,
} from "./topology.ts";

/** What a broker user may do: RabbitMQ's regular expressions over names, and over routing keys at topic exchanges. */
export interface BrokerPermissions {
  readonly configure: string;
  readonly write: string;
  readonly read: string;
  /** One per topic exchange that is written to or bound: elsewhere a routing key would not be looked at. */
  readonly topics: readonly TopicPermission[];
}

export interface TopicPermission {
  readonly exchange: string;
  readonly write: string;
  readonly read: string;
}

const nothing = "^$";
/** Queues that the broker names for one connection, which nobody else may touch. */
const ownTransient = "amq\\.gen-.*";
const defaultExchange = "amq\\.default";
const anyVmQueue = "vm\\..*";

/** Of hints: ids of commands. */
const commandId = "[0-9a-f-]{36}";
/** Watches commands as viewers follow them. */
const liveReader: Service = "gateway";
const liveWriter: Service = "vm-ops";
/** Makes, mends and rings VMs' queues. */
const vmQueuesOwner: Service = "vm-ops";

/**
 * The least that a service needs, from what is declared: its own queues, its own events, the requests whose caller it is.
 * Who answers requests may write to the default exchange, since RabbitMQ takes direct replies nowhere else, and so to
 * every queue; the keeper of dead letters may write anywhere, since they came from anywhere.
 */
export function servicePermissions(mesh: Mesh, topology: Topology, service: Service): BrokerPermissions {
  const events = mesh.events.filter(({ owner }) => owner === service).map(({ name }) => name);
  const heard = mesh.hearings.filter(({ by }) => by.includes(service)).map(({ event }) => event);
  const asked = Object.values(mesh.requests)
    .flatMap((requests) => Object.values(requests))
    .filter(({ callers }) => callers.includes(service))
    .map(({ name }) => name);
  const subscriptions = mesh.subscriptions.filter((subscription) => subscription.service === service);
  const reports = mesh.reports.filter((report) => report.service === service);
  const answers = mesh.requests[service] !== undefined || reports.length > 0;
  const watches = heard.length > 0 || service === liveReader;

  const topics = new Map<string, { write: string[]; read: string[] }>();
  const topic = (exchange: string) => {
    const known = topics.get(exchange) ?? { write: [], read: [] };
    topics.set(exchange, known);
    return known;
  };
  if (events.length > 0) topic(eventsExchange(service)).write.push(...events.map(literally));
  if (asked.length > 0) topic(requestsExchange).write.push(...asked.map(literally));
  if (service === liveWriter) topic(liveExchange).write.push(commandId);
  if (service === liveReader) topic(liveExchange).read.push(commandId);
  for (const event of heard) topic(eventsExchange(event.owner)).read.push(literally(event.name));
  for (const subscription of subscriptions) {
    topic(deadLettersExchange).write.push(literally(subscriptionQueue(subscription)));
  }
  const retries = subscriptions.flatMap((s) => s.retry.tiers.map((tier) => retryExchange(service, tier)));

  const written = [...topics].filter(([, { write }]) => write.length > 0).map(([exchange]) => exchange);
  const bound = [...topics].filter(([, { read }]) => read.length > 0).map(([exchange]) => exchange);
  const consumed = [
    ...(mesh.requests[service] === undefined ? [] : [requestsQueue(service)]),
    ...reports.map(({ queue }) => queue),
    ...subscriptions.map(subscriptionQueue),
  ];
  const transient = watches ? [ownTransient] : [];
  const vms = service === vmQueuesOwner ? [anyVmQueue] : [];
  const keeps = service === deadLettersKeeper;
  const parked = keeps ? topology.queues.filter(({ role }) => role === "parking").map((q) => q.name) : [];
  return {
    configure: anyOf([...vms, ...transient]),
    write: anyOf([
      ...[...written, ...new Set(retries)].map(literally),
      ...(answers ? [defaultExchange] : []),
      ...(keeps ? topology.exchanges.map(({ name }) => literally(name)) : []),
      ...transient,
    ]),
    read: anyOf([...[...consumed, ...parked, ...bound].map(literally), ...vms, ...transient]),
    topics: keeps
      ? [...topics].map(([exchange, { read }]) => ({ exchange, write: ".*", read: anyOf(read) }))
      : [...topics].map(([exchange, { write, read }]) => ({
          ...{ exchange, write: anyOf(write), read: anyOf(read) },
        })),
  };
}

/**
 * The least that an agent needs: to read its VMs' queues and to report under its own name. It declares nothing, and
 * cannot write to the default exchange, which reaches every queue.
 */
export function agentPermissions(agent: {
  readonly tenantId: string;
  readonly agentId: string;
  readonly vmUuids: readonly string[];
}): BrokerPermissions {
  const { tenantId, agentId, vmUuids } = agent;
  const reports = `agents\\.${literally(tenantId)}\\.${literally(agentId)}\\.[a-z-]+`;
  return {
    configure: nothing,
    write: anyOf([literally(agentsExchange)]),
    read: anyOf(vmUuids.map((vm) => literally(vmQueue(tenantId, vm)))),
    topics: [{ exchange: agentsExchange, write: anyOf([reports]), read: nothing }],
  };
}

/** Of who has no business in any queue: the warden looks after logins alone. */
export const noPermissions: BrokerPermissions = {
  configure: nothing,
  write: nothing,
  read: nothing,
  topics: [],
};

/** Makes and mends what the topology declares; takes part in nothing. */
export function topologyPermissions(topology: Topology): BrokerPermissions {
  const all = anyOf([...topology.exchanges, ...topology.queues].map(({ name }) => literally(name)));
  return { configure: all, write: all, read: all, topics: [] };
}

function anyOf(patterns: readonly string[]): string {
  return patterns.length === 0 ? nothing : `^(?:${[...new Set(patterns)].join("|")})$`;
}

function literally(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}
