import { retryTiers } from "./define.ts";
import {
  deadLettersExchange,
  type Mesh,
  type PolicyShape,
  type QueueShape,
  type Topology,
} from "./topology.ts";

/**
 * Everything wrong with what is declared, each with its remedy; empty when the topology may be applied.
 * Pure: refuses at start and in unit tests what a broker would let happen.
 */
export function checkTopology(mesh: Mesh, topology: Topology): string[] {
  return [...namesOwnedTwice(mesh), ...unheardEvents(mesh), ...faultsOfShape(topology)];
}

/** The part that needs no contracts: queues, policies and where dead letters go. */
export function faultsOfShape(topology: Topology): string[] {
  return [
    ...overlappingPolicies(topology),
    ...unboundTargets(topology),
    ...queuesWithoutDeadLetters(topology),
    ...mixedTtls(topology),
    ...straysInRetries(topology),
    ...automaticCycles(topology),
  ];
}

function namesOwnedTwice(mesh: Mesh): string[] {
  const named: { name: string; where: string }[] = [
    ...mesh.events.map(({ name, owner }) => ({ name, where: `the events of ${owner}` })),
    ...Object.entries(mesh.requests).flatMap(([owner, requests]) =>
      Object.values(requests).map(({ name }) => ({ name, where: `the requests of ${owner}` })),
    ),
    ...mesh.reports.flatMap(({ queue, reports }) =>
      Object.values(reports).map(({ name }) => ({ name, where: `the reports of ${queue}` })),
    ),
    ...mesh.doorbells.map(({ name }) => ({ name, where: "the doorbells" })),
  ];
  const first = new Map<string, string>();
  const faults: string[] = [];
  for (const { name, where } of named) {
    const before = first.get(name);
    if (before === undefined) first.set(name, where);
    else faults.push(`${name} is declared by ${before} and by ${where}; keep one, rename the other`);
  }
  for (const [owner, requests] of Object.entries(mesh.requests)) {
    for (const request of Object.values(requests)) {
      if (request.owner === owner) continue;
      faults.push(
        `${request.name} is owned by ${request.owner} but listed under ${owner}; list it under its owner`,
      );
    }
  }
  const queues = [
    ...mesh.subscriptions.map((s) => `${s.service}.${s.name}`),
    ...mesh.reports.map((r) => r.queue),
  ];
  for (const queue of new Set(queues.filter((queue, at) => queues.indexOf(queue) !== at))) {
    faults.push(`queue ${queue} is declared twice; rename one of its subscriptions`);
  }
  return faults;
}

function unheardEvents(mesh: Mesh): string[] {
  const heard = new Set(
    mesh.subscriptions.flatMap(({ events }) => Object.values(events).map(({ name }) => name)),
  );
  const declared = new Set(mesh.events.map(({ name }) => name));
  return [
    ...mesh.events
      .filter(({ name, external }) => !external && !heard.has(name))
      .map(({ name }) => `nobody subscribes to ${name}; add a subscription, mark it external or remove it`),
    ...[...heard]
      .filter((name) => !declared.has(name))
      .map((name) => `${name} is subscribed to but nobody declares it; add it to its owner's events`),
  ];
}

function policiesOf(topology: Topology, appliesTo: PolicyShape["appliesTo"], name: string): PolicyShape[] {
  return topology.policies.filter((p) => p.appliesTo === appliesTo && new RegExp(p.pattern).test(name));
}

function policyOf(topology: Topology, queue: string): PolicyShape["definition"] {
  return policiesOf(topology, "queues", queue)[0]?.definition ?? {};
}

/** Names that a policy must tell apart: ours, and a VM's. */
const vmExample = "vm.tenant.00000000-0000-7000-8000-000000000000.commands";

function overlappingPolicies(topology: Topology): string[] {
  const queues = [...topology.queues.map(({ name }) => name), vmExample];
  const faults = queues.flatMap((name) => {
    const names = policiesOf(topology, "queues", name).map((policy) => policy.name);
    if (names.length === 1) return [];
    if (names.length === 0) return [`no policy matches queue ${name}; generate one for it`];
    return [
      `policies ${names.join(" and ")} all match queue ${name}, and only one would apply; make them disjoint`,
    ];
  });
  const limits = topology.policies.flatMap(({ name, definition }) => {
    const limit = definition["delivery-limit"];
    if (limit === undefined || (typeof limit === "number" && limit >= 1)) return [];
    return [`policy ${name} has delivery-limit ${String(limit)}; set it to 1 or more`];
  });
  return [...faults, ...limits];
}

/** Queues that a dead letter of `queue` reaches. */
function deadLetterTargets(topology: Topology, queue: QueueShape): string[] {
  const policy = policyOf(topology, queue.name);
  const exchange = policy["dead-letter-exchange"];
  if (exchange === undefined) return [];
  const key = policy["dead-letter-routing-key"];
  const keys = key !== undefined ? [String(key)] : keysKept(topology, queue);
  if (exchange === "") return keys;
  return keys.flatMap((name) => routed(topology, String(exchange), name));
}

/** What waits for a retry keeps the name of the queue that it came from. */
function keysKept(topology: Topology, queue: QueueShape): string[] {
  if (queue.role !== "retry") return [queue.name];
  return topology.queues
    .filter(({ role, owner }) => role === "consumed" && owner === queue.owner)
    .map(({ name }) => name);
}

function routed(topology: Topology, exchange: string, key: string): string[] {
  const type = topology.exchanges.find(({ name }) => name === exchange)?.type;
  if (type === undefined) return [];
  return topology.bindings
    .filter((b) => b.exchange === exchange && (type === "fanout" || topicMatches(b.routingKey, key)))
    .map(({ queue }) => queue);
}

/** AMQP topic patterns: `*` is one word, `#` any number of them. */
export function topicMatches(pattern: string, key: string): boolean {
  return wordsMatch(pattern.split("."), key.split("."));
}

function wordsMatch(pattern: readonly string[], words: readonly string[]): boolean {
  const [head, ...rest] = pattern;
  if (head === undefined) return words.length === 0;
  if (head === "#") return words.some((_, at) => wordsMatch(rest, words.slice(at))) || wordsMatch(rest, []);
  return words.length > 0 && (head === "*" || head === words[0]) && wordsMatch(rest, words.slice(1));
}

function unboundTargets(topology: Topology): string[] {
  const queues = new Set(topology.queues.map(({ name }) => name));
  const exchanges = new Set(topology.exchanges.map(({ name }) => name));
  const ends = topology.bindings.flatMap(({ exchange, queue }) => [
    ...(exchanges.has(exchange)
      ? []
      : [`a binding of ${queue} names exchange ${exchange}; declare that exchange`]),
    ...(queues.has(queue) ? [] : [`a binding of ${exchange} names queue ${queue}; declare that queue`]),
  ]);
  const alternates = topology.policies.flatMap(({ name, definition }) => {
    const alternate = definition["alternate-exchange"];
    if (alternate === undefined || routed(topology, String(alternate), "any").length > 0) return [];
    return [
      `policy ${name} sends the unrouted to ${alternate}, where no queue is bound; bind a parking queue`,
    ];
  });
  const vm = { name: vmExample, role: "consumed", owner: "vm-ops", arguments: {} } as const;
  const vmLost =
    deadLetterTargets(topology, vm).length > 0 ? [] : ["dead letters of VM queues reach no queue; bind vm.#"];
  return [...ends, ...alternates, ...vmLost];
}

function queuesWithoutDeadLetters(topology: Topology): string[] {
  const known = new Set(topology.queues.map(({ name }) => name));
  return topology.queues.flatMap((queue) => {
    if (queue.role === "parking") return [];
    const policy = policyOf(topology, queue.name);
    const reached = deadLetterTargets(topology, queue).filter((name) => known.has(name));
    const faults: string[] = [];
    if (reached.length === 0) {
      faults.push(
        `dead letters of queue ${queue.name} reach no queue; give it a dead-letter-exchange (${deadLettersExchange}) and bind a queue there to ${queue.name}`,
      );
    }
    const safe =
      policy["dead-letter-strategy"] === "at-least-once" && policy["overflow"] === "reject-publish";
    if (!safe) {
      faults.push(
        `queue ${queue.name} may lose dead letters; set dead-letter-strategy at-least-once and overflow reject-publish`,
      );
    }
    return faults;
  });
}

/** Only the head of a queue expires: two waiting times in one queue delay each other. */
function mixedTtls(topology: Topology): string[] {
  return topology.queues.flatMap((queue) => {
    const ttl = policyOf(topology, queue.name)["message-ttl"];
    if (queue.role !== "retry") {
      return ttl === undefined
        ? []
        : [
            `queue ${queue.name} has message-ttl ${ttl} but is no retry queue; its messages would die unhandled: remove it`,
          ];
    }
    const faults: string[] = [];
    const tier = Object.entries(retryTiers).find(([name]) => queue.name.endsWith(`.retry.${name}`));
    if (tier?.[1] !== ttl) {
      faults.push(
        `retry queue ${queue.name} waits ${String(ttl)} ms; its name says ${tier?.[0] ?? "no tier"}: make them agree`,
      );
    }
    const sources = new Set(
      topology.bindings.filter((b) => b.queue === queue.name).map(({ exchange }) => exchange),
    );
    if (sources.size !== 1) {
      faults.push(
        `retry queue ${queue.name} is fed by ${sources.size} exchanges; bind it to its own tier's exchange only`,
      );
    }
    return faults;
  });
}

/** Whoever publishes into a retry queue chooses under which name it comes out: any must lead somewhere else. */
function straysInRetries(topology: Topology): string[] {
  return topology.queues.flatMap(({ name, role }) => {
    if (role !== "retry") return [];
    const exchange = String(policyOf(topology, name)["dead-letter-exchange"] ?? "");
    const caught = policiesOf(topology, "exchanges", exchange).some(
      ({ definition }) => definition["alternate-exchange"] !== undefined,
    );
    return caught
      ? []
      : [
          `what a stranger puts into retry queue ${name} stays in it for ever; send its dead letters to an exchange with an alternate-exchange`,
        ];
  });
}

/**
 * Circles that the broker would drive by itself (expiry, delivery limit, overflow): it drops or wedges what
 * goes round, unless a consumer's reject is part of the circle.
 */
function automaticCycles(topology: Topology): string[] {
  const next = new Map(
    topology.queues.map((queue) => {
      const policy = policyOf(topology, queue.name);
      const automatic = policy["message-ttl"] !== undefined || policy["delivery-limit"] !== undefined;
      return [queue.name, automatic ? deadLetterTargets(topology, queue) : []];
    }),
  );
  const done = new Set<string>();
  const faults = new Set<string>();
  const walk = (name: string, path: readonly string[]): void => {
    const at = path.indexOf(name);
    if (at >= 0) {
      const circle = [...path.slice(at), name].join(" -> ");
      faults.add(
        `dead letters go round by themselves: ${circle}; send one of them to ${deadLettersExchange} instead`,
      );
    }
    if (at >= 0 || done.has(name)) return;
    for (const target of next.get(name) ?? []) walk(target, [...path, name]);
    done.add(name);
  };
  for (const name of next.keys()) walk(name, []);
  return [...faults];
}
