import type { Channel, ChannelModel } from "amqplib";
import type {
  BindingShape,
  ExchangeShape,
  PolicyShape,
  QueueShape,
  Topology,
} from "@muster/contracts/topology";
import { bindingRows, exchangeRow, Management, policyRows, queueRow } from "./management.ts";
import { deleteStuck, openThrowAway, stuckQueues, type ProbeOptions } from "./stuck-queues.ts";
import { within } from "./waiting.ts";

export interface TopologyTarget {
  readonly amqpUrl: string;
  /** With user and password; the user may set policies. */
  readonly managementUrl: string;
}

/** One difference between what is declared and what lives. */
export interface Difference {
  /** `missing` and `different` are mended by applying; `conflict` only by hand, as the remedy says. */
  readonly kind: "missing" | "different" | "conflict";
  readonly what: "exchange" | "queue" | "binding" | "policy";
  readonly name: string;
  readonly detail: string;
}

const operationTimeoutMs = 15_000;
const lookupsAtOnce = 8;

/** What lives, compared with what is declared. Empty means equal. Changes nothing. */
export async function planTopology(topology: Topology, target: TopologyTarget): Promise<Difference[]> {
  const management = new Management(target.managementUrl, target.amqpUrl);
  const live = (await management.get(policyRows, "policies")) ?? [];
  const found = await Promise.all([
    eachOf(topology.exchanges, (exchange) => exchangeDifference(management, exchange)),
    eachOf(topology.queues, (queue) => queueDifference(management, queue)),
    eachOf([...bySource(topology.bindings)], ([source, wanted]) =>
      bindingDifferences(management, source, wanted),
    ),
  ]);
  const policies = topology.policies.flatMap((policy) => policyDifference(policy, live));
  return [...found.flat(2), ...policies, ...strangers(topology, live)];
}

/**
 * Makes the declared exist: policies first, so that no queue lives a moment without its limits. Safe to run by
 * many at once and again and again. Never deletes; what only a person may decide is thrown with its remedy.
 * Answers what it mended.
 */
export async function applyTopology(topology: Topology, target: TopologyTarget): Promise<Difference[]> {
  const plan = await planTopology(topology, target);
  const conflicts = plan.filter((difference) => difference.kind === "conflict");
  if (conflicts.length > 0) {
    throw new Error(`the topology cannot be applied: ${conflicts.map(sentenceOf).join("; ")}`);
  }
  const wanted = new Set(plan.map(({ what, name }) => `${what} ${name}`));
  const management = new Management(target.managementUrl, target.amqpUrl);
  await eachOf(
    topology.policies.filter(({ name }) => wanted.has(`policy ${name}`)),
    (policy) => management.put("policies", policy.name, policyBody(policy)),
  );
  if (plan.some(({ what }) => what !== "policy")) await declare(topology, target.amqpUrl, wanted);
  return plan;
}

/** Readiness: undefined while the live topology is as declared, else the difference in one sentence. */
export async function topologyDrift(topology: Topology, target: TopologyTarget): Promise<string | undefined> {
  const plan = await planTopology(topology, target);
  if (plan.length === 0) return undefined;
  return `the topology has drifted; see scripts/topology plan: ${plan.slice(0, 10).map(sentenceOf).join("; ")}`;
}

/**
 * Makes those declared quorum queues anew that are there and answer nothing although all their members are online;
 * answers which. What was in them was lost before. To be run by one at a time: it deletes.
 */
export async function repairStuckQueues(
  topology: Topology,
  target: TopologyTarget,
  options?: ProbeOptions,
): Promise<string[]> {
  const management = new Management(target.managementUrl, target.amqpUrl);
  const silent = await eachOf(topology.queues, async ({ name }) => {
    const live = await management.get(queueRow, "queues", name);
    // a leader tells the queue's state every few seconds; one that was declared just now may not have told it yet
    const suspect = live?.type === "quorum" && (live.state === undefined || live.messages === undefined);
    const whole = live?.members?.every((member) => live.online?.includes(member)) === true;
    return suspect && whole ? [name] : [];
  });
  const stuck = await stuckQueues(target.amqpUrl, silent.flat(), options);
  if (stuck.length === 0) return [];
  await deleteStuck(target.amqpUrl, stuck);
  await applyTopology(topology, target);
  return stuck;
}

export function sentenceOf({ kind, what, name, detail }: Difference): string {
  return `${what} ${name} is ${kind === "missing" ? "missing" : `not as declared (${detail})`}`;
}

async function exchangeDifference(management: Management, wanted: ExchangeShape): Promise<Difference[]> {
  const live = await management.get(exchangeRow, "exchanges", wanted.name);
  const base = { what: "exchange", name: wanted.name } as const;
  if (live === undefined) return [{ ...base, kind: "missing", detail: wanted.type }];
  if (live.type === wanted.type && live.durable) return [];
  const is = `${live.durable ? "durable" : "transient"} ${live.type}`;
  return [
    {
      ...base,
      kind: "conflict",
      detail: `is ${is}, should be durable ${wanted.type}; delete it, then apply`,
    },
  ];
}

async function queueDifference(management: Management, wanted: QueueShape): Promise<Difference[]> {
  const live = await management.get(queueRow, "queues", wanted.name);
  const base = { what: "queue", name: wanted.name } as const;
  if (live === undefined) return [{ ...base, kind: "missing", detail: argumentsText(wanted.arguments) }];
  const is = argumentsText(live.arguments);
  const should = argumentsText(wanted.arguments);
  if (is === should && live.durable) return [];
  const remedy = "arguments never change: drain it, delete it, then apply";
  return [{ ...base, kind: "conflict", detail: `has ${is}, should have ${should}; ${remedy}` }];
}

async function bindingDifferences(
  management: Management,
  source: string,
  wanted: readonly BindingShape[],
): Promise<Difference[]> {
  const live = await management.get(bindingRows, "exchanges", source, "bindings", "source");
  return wanted
    .filter(
      ({ queue, routingKey }) =>
        live?.some(
          (row) =>
            row.destination === queue && row.destination_type === "queue" && row.routing_key === routingKey,
        ) !== true,
    )
    .map((binding) => ({ kind: "missing", what: "binding", name: bindingName(binding), detail: "" }));
}

function policyDifference(wanted: PolicyShape, rows: readonly PolicyRow[]): Difference[] {
  const base = { what: "policy", name: wanted.name } as const;
  const live = rows.find((row) => row.name === wanted.name);
  if (live === undefined) return [{ ...base, kind: "missing", detail: argumentsText(wanted.definition) }];
  const is = `${live["apply-to"]} ${live.pattern} ${argumentsText(live.definition)}`;
  const should = `${wanted.appliesTo} ${wanted.pattern} ${argumentsText(wanted.definition)}`;
  return is === should ? [] : [{ ...base, kind: "different", detail: `is ${is}, should be ${should}` }];
}

type PolicyRow = { name: string; pattern: string; "apply-to": string; definition: Record<string, unknown> };

/** A queue obeys one policy only: somebody else's that matches a name of ours may switch ours off. */
function strangers(topology: Topology, rows: readonly PolicyRow[]): Difference[] {
  const ours = new Set(topology.policies.map(({ name }) => name));
  const names = [...topology.queues.map(({ name }) => name), "vm.example.commands"];
  return rows
    .filter((row) => !ours.has(row.name) && row["apply-to"] !== "exchanges")
    .flatMap((row) => {
      const hit = names.find((name) => matches(row.pattern, name));
      const detail = `matches ${hit ?? ""}, which has a policy of its own; delete it or narrow its pattern ${row.pattern}`;
      return hit === undefined ? [] : [{ kind: "conflict", what: "policy", name: row.name, detail } as const];
    });
}

function matches(pattern: string, name: string): boolean {
  try {
    return new RegExp(pattern).test(name);
  } catch {
    // a pattern of another dialect: not ours to judge
    return false;
  }
}

const policyBody = ({ pattern, appliesTo, definition }: PolicyShape): object => ({
  pattern,
  "apply-to": appliesTo,
  definition,
  priority: 0,
});

async function declare(topology: Topology, amqpUrl: string, wanted: ReadonlySet<string>): Promise<void> {
  const model = await openThrowAway(amqpUrl, "topology");
  try {
    // one throw-away channel each: a refusal closes no other's
    await eachOf(
      topology.exchanges.filter(({ name }) => wanted.has(`exchange ${name}`)),
      ({ name, type }) =>
        onChannel(model, `declaring ${name}`, (c) => c.assertExchange(name, type, { durable: true })),
    );
    await eachOf(
      topology.queues.filter(({ name }) => wanted.has(`queue ${name}`)),
      (queue) =>
        onChannel(model, `declaring ${queue.name}`, (c) =>
          c.assertQueue(queue.name, { durable: true, arguments: { ...queue.arguments } }),
        ),
    );
    await eachOf(
      topology.bindings.filter((binding) => wanted.has(`binding ${bindingName(binding)}`)),
      ({ queue, exchange, routingKey }) =>
        onChannel(model, `binding ${queue}`, (c) => c.bindQueue(queue, exchange, routingKey)),
    );
  } finally {
    await within(model.close(), operationTimeoutMs, "closing the connection").catch(() => {});
  }
}

async function onChannel(
  model: ChannelModel,
  doing: string,
  work: (channel: Channel) => Promise<unknown>,
): Promise<void> {
  try {
    const channel = await within(model.createChannel(), operationTimeoutMs, "opening a channel");
    channel.on("error", () => {});
    await within(work(channel), operationTimeoutMs, doing);
    await channel.close();
  } catch (cause) {
    throw new Error(`${doing} failed: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

function bySource(bindings: readonly BindingShape[]): Map<string, BindingShape[]> {
  const grouped = new Map<string, BindingShape[]>();
  for (const binding of bindings) {
    const own = grouped.get(binding.exchange) ?? [];
    own.push(binding);
    grouped.set(binding.exchange, own);
  }
  return grouped;
}

const bindingName = ({ exchange, routingKey, queue }: BindingShape): string =>
  `${exchange} [${routingKey}] -> ${queue}`;

function argumentsText(given: Readonly<Record<string, unknown>>): string {
  const sorted = Object.entries(given).sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify(Object.fromEntries(sorted));
}

/** A few at a time, in order of the results. */
async function eachOf<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (let from = 0; from < items.length; from += lookupsAtOnce) {
    results.push(...(await Promise.all(items.slice(from, from + lookupsAtOnce).map(work))));
  }
  return results;
}
