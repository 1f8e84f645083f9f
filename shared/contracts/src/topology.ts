import {
  retryTiers,
  services,
  type DoorbellContract,
  type EventContract,
  type ReportContract,
  type RequestContract,
  type RetryTier,
  type Service,
  type Subscription,
} from "./define.ts";

/** The queue of one service for the agents' reports that it answers. */
export interface ReportQueue {
  readonly service: Service;
  /** Queue name, `<service>.<what>`. */
  readonly queue: string;
  /** Handler key → report. */
  readonly reports: Readonly<Record<string, ReportContract>>;
}

/** An event that processes hear while it is published, each on a queue of its own. */
export interface Hearing {
  readonly event: EventContract;
  readonly by: readonly Service[];
}

export interface VmQueuePolicy {
  readonly type: "quorum" | "classic";
  /** Deliveries of one doorbell before the broker gives up; equals the requeue limit. Quorum only. */
  readonly deliveryLimit: number;
  readonly lengthMax: number;
}

/** Everything that is declared: what all queues, exchanges, bindings and policies derive from. */
export interface Mesh {
  readonly events: readonly EventContract[];
  /** Owner → handler key → request. */
  readonly requests: Readonly<Partial<Record<Service, Readonly<Record<string, RequestContract>>>>>;
  readonly reports: readonly ReportQueue[];
  readonly subscriptions: readonly Subscription[];
  readonly hearings: readonly Hearing[];
  readonly doorbells: readonly DoorbellContract[];
  readonly vmQueues: VmQueuePolicy;
}

export interface ExchangeShape {
  readonly name: string;
  readonly type: "topic" | "fanout";
}

export interface QueueShape {
  readonly name: string;
  /** `consumed` has a handler, `retry` waits and returns, `parking` keeps what nobody could handle. */
  readonly role: "consumed" | "retry" | "parking";
  readonly owner: Service;
  readonly arguments: Readonly<Record<string, string | boolean>>;
}

export interface BindingShape {
  readonly exchange: string;
  readonly queue: string;
  readonly routingKey: string;
}

export interface PolicyShape {
  readonly name: string;
  /** Regular expression over names; no two policies of a kind match the same name. */
  readonly pattern: string;
  readonly appliesTo: "queues" | "exchanges";
  readonly definition: Readonly<Record<string, string | number>>;
}

export interface Topology {
  readonly exchanges: readonly ExchangeShape[];
  readonly queues: readonly QueueShape[];
  readonly bindings: readonly BindingShape[];
  readonly policies: readonly PolicyShape[];
}

export const agentsExchange = "muster.agents";
export const agentsUnrouted = "muster.agents.unrouted";
export const deadLettersExchange = "muster.dead-letters";
export const liveExchange = "muster.live";
/** Requests by their wire name: who may send which is told to the broker. */
export const requestsExchange = "muster.requests";
/** What waited for a retry returns through it, by the name of its queue; under any other name it is parked. */
export const retriesExchange = "muster.retries";
export const retriesUnrouted = "muster.retries.unrouted";

export const eventsExchange = (owner: Service): string => `muster.${owner}.events`;
export const requestsQueue = (owner: Service): string => `${owner}.requests`;
export const subscriptionQueue = (s: Pick<Subscription, "service" | "name">): string =>
  `${s.service}.${s.name}`;
export const vmQueue = (tenantId: string, vmId: string): string => `vm.${tenantId}.${vmId}.commands`;
export const reportRoutingKey = (tenantId: string, agentId: string, report: string): string =>
  `agents.${tenantId}.${agentId}.${report}`;
export const deadLettersQueue = (owner: Service | "vm"): string => `${deadLettersExchange}.${owner}`;
/** One exchange and one queue of this name per service and tier. */
export const retryExchange = (service: Service, tier: RetryTier): string => `${service}.retry.${tier}`;

/** Deliveries before a message that keeps killing its consumer is parked: a guard, not the retry policy. */
const deliveryLimit = 20;
const requestsLengthMax = 50_000;
const eventsLengthMax = 1_000_000;
/** Parking has no dead letters of its own: without a limit RabbitMQ 4 would drop after 20 deliveries. */
const parkingDeliveryLimit = 1_000_000;

const quorum = { "x-queue-type": "quorum" } as const;

interface Draft {
  exchanges: ExchangeShape[];
  queues: QueueShape[];
  bindings: BindingShape[];
  policies: PolicyShape[];
}

/** Derives the whole topology. Pure; `checkTopology` judges it. */
export function topologyOf(mesh: Mesh): Topology {
  const draft: Draft = { exchanges: [], queues: [], bindings: [], policies: [] };
  for (const name of [agentsExchange, deadLettersExchange, liveExchange, requestsExchange]) {
    draft.exchanges.push({ name, type: "topic" });
  }
  for (const owner of new Set(mesh.events.map((event) => event.owner))) {
    draft.exchanges.push({ name: eventsExchange(owner), type: "topic" });
  }
  addAgents(draft, mesh);
  for (const service of services) {
    if (mesh.requests[service] !== undefined) {
      const queue = requestsQueue(service);
      addConsumed(draft, queue, service, requestsLengthMax);
      draft.bindings.push({ exchange: requestsExchange, queue, routingKey: `${service}.#` });
    }
  }
  for (const subscription of mesh.subscriptions) {
    const queue = subscriptionQueue(subscription);
    addConsumed(draft, queue, subscription.service, eventsLengthMax);
    for (const event of Object.values(subscription.events)) {
      draft.bindings.push({ exchange: eventsExchange(event.owner), queue, routingKey: event.name });
    }
  }
  addRetries(draft, mesh);
  addDeadLetters(draft);
  draft.policies.push(vmPolicy(mesh.vmQueues));
  return draft;
}

function addAgents(draft: Draft, mesh: Mesh): void {
  addUnrouted(draft, agentsExchange, agentsUnrouted);
  for (const { queue, service, reports } of mesh.reports) {
    addConsumed(draft, queue, service, requestsLengthMax);
    for (const { report } of Object.values(reports)) {
      draft.bindings.push({ exchange: agentsExchange, queue, routingKey: `agents.*.*.${report}` });
    }
  }
}

/** Parks what no queue takes at this exchange. */
function addUnrouted(draft: Draft, exchange: string, unrouted: string): void {
  draft.exchanges.push({ name: unrouted, type: "fanout" });
  addParking(draft, unrouted, "reliability");
  draft.bindings.push({ exchange: unrouted, queue: unrouted, routingKey: "" });
  draft.policies.push({
    name: exchange,
    pattern: exactly(exchange),
    appliesTo: "exchanges",
    definition: { "alternate-exchange": unrouted },
  });
}

function addConsumed(draft: Draft, name: string, owner: Service, lengthMax: number): void {
  draft.queues.push({ name, owner, role: "consumed", arguments: quorum });
  draft.policies.push({
    name,
    pattern: exactly(name),
    appliesTo: "queues",
    definition: {
      "delivery-limit": deliveryLimit,
      "max-length": lengthMax,
      "dead-letter-exchange": deadLettersExchange,
      "dead-letter-routing-key": name,
      "dead-letter-strategy": "at-least-once",
      overflow: "reject-publish",
    },
  });
}

function addParking(draft: Draft, name: string, owner: Service): void {
  draft.queues.push({ name, owner, role: "parking", arguments: quorum });
  draft.policies.push({
    name,
    pattern: exactly(name),
    appliesTo: "queues",
    definition: { "delivery-limit": parkingDeliveryLimit },
  });
}

/**
 * A tier's queue keeps the routing key of what waits in it: the queue to return to. Not by the default exchange: what
 * a stranger puts into the tier's queue by its name would go round in it for ever, and hold up what returns.
 */
function addRetries(draft: Draft, mesh: Mesh): void {
  draft.exchanges.push({ name: retriesExchange, type: "topic" });
  addUnrouted(draft, retriesExchange, retriesUnrouted);
  for (const subscription of mesh.subscriptions) {
    const queue = subscriptionQueue(subscription);
    draft.bindings.push({ exchange: retriesExchange, queue, routingKey: queue });
  }
  for (const service of services) {
    const own = mesh.subscriptions.filter((subscription) => subscription.service === service);
    const tiers = new Set(own.flatMap((subscription) => subscription.retry.tiers));
    for (const tier of tiers) {
      const name = retryExchange(service, tier);
      draft.exchanges.push({ name, type: "fanout" });
      draft.queues.push({ name, owner: service, role: "retry", arguments: quorum });
      draft.bindings.push({ exchange: name, queue: name, routingKey: "" });
      draft.policies.push({
        name,
        pattern: exactly(name),
        appliesTo: "queues",
        definition: {
          "message-ttl": retryTiers[tier],
          "delivery-limit": parkingDeliveryLimit,
          "dead-letter-exchange": retriesExchange,
          "dead-letter-strategy": "at-least-once",
          overflow: "reject-publish",
        },
      });
    }
  }
}

function addDeadLetters(draft: Draft): void {
  const owners = new Set(
    draft.queues.filter((queue) => queue.role === "consumed").map((queue) => queue.owner),
  );
  for (const owner of [...owners, "vm"] as const) {
    const queue = deadLettersQueue(owner);
    addParking(draft, queue, "reliability");
    draft.bindings.push({ exchange: deadLettersExchange, queue, routingKey: `${owner}.#` });
  }
}

/** The original routing key of a doorbell is its queue's name, so none is set. */
function vmPolicy(vm: VmQueuePolicy): PolicyShape {
  const common = {
    "dead-letter-exchange": deadLettersExchange,
    "max-length": vm.lengthMax,
    overflow: "reject-publish",
  };
  const strategy = {
    "delivery-limit": Math.max(1, vm.deliveryLimit),
    "dead-letter-strategy": "at-least-once",
  };
  return {
    name: "vm",
    pattern: "^vm\\.",
    appliesTo: "queues",
    definition: vm.type === "quorum" ? { ...common, ...strategy } : common,
  };
}

const exactly = (name: string): string => `^${name.replaceAll(".", "\\.")}$`;
