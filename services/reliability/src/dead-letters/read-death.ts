import { createHash } from "node:crypto";
import {
  doorbellPayload,
  reliabilityHeartbeatsQueue,
  vmCommandDoorbell,
  vmOpsAgentsQueue,
} from "@muster/contracts/agents";
import { envelope as envelopeSchema, headerPrefixes } from "@muster/contracts/envelope";
import { tenantId as tenantIdSchema, timestamp } from "@muster/contracts/ids";
import { mayRing, senderOf } from "@muster/contracts/senders";
import { agentsExchange, deadLettersExchange } from "@muster/contracts/topology";
import { z } from "zod";
import { queueKindOf, tenantOfReportKey, unroutedQueue, vmOfQueue } from "./queues.ts";
import { storableJson, storableRecord, storableText } from "./storable.ts";

/** More of a body is not kept, and such a message cannot be sent again from here. */
export const bodyBytesMax = 1024 * 1024;

/** Counts the replays of a message, so that a second death is not taken for a copy of the first. */
export const replayHeader = "muster-replay";

/** What a dead-letter queue delivers, as far as it is looked at. */
export interface DeadDelivery {
  readonly queue: string;
  readonly exchange: string;
  readonly routingKey: string;
  readonly body: Buffer;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly contentType: string | undefined;
  readonly messageId: string | undefined;
  readonly type: string | undefined;
  readonly userId: string | undefined;
}

export interface DeadCommand {
  readonly command_id: string;
  readonly vm_uuid: string;
  readonly attempt: number;
  readonly kind: "run" | "cancel";
}

/** One death of one message, safe to store. */
export interface Death {
  /** The same for every copy of this death. */
  readonly key: string;
  readonly queue: string;
  readonly reason: string;
  /** Where it was published to when it came into the queue that it died in. */
  readonly exchange: string;
  readonly routingKey: string;
  readonly type: string;
  readonly messageId: string;
  readonly contentType: string | null;
  readonly tenantId: string | null;
  readonly vmUuid: string | null;
  readonly command: DeadCommand | null;
  readonly correlationId: string | null;
  readonly lastError: string | null;
  readonly deaths: number;
  /** Milliseconds since 1970; null when the broker did not say. */
  readonly diedAtMs: number | null;
  readonly headers: Record<string, unknown>;
  readonly history: Record<string, unknown>[];
  readonly body: Buffer;
  /** Of the whole body, kept or not. */
  readonly bodyBytes: number;
}

const deathEntry = z.looseObject({
  count: z.number().int().min(0).catch(1),
  reason: z.string().max(64),
  queue: z.string().max(255),
  exchange: z.string().max(255).catch(""),
  "routing-keys": z.array(z.string().max(255)).catch([]),
  time: z
    .looseObject({ value: z.number() })
    .transform(({ value }) => value * 1_000)
    .optional()
    .catch(undefined),
});
type DeathEntry = z.infer<typeof deathEntry>;

/** Attributes that are read one by one: one bad attribute does not hide the others. */
const attributes = z.looseObject({
  id: envelopeSchema.shape.id.optional().catch(undefined),
  type: envelopeSchema.shape.type.optional().catch(undefined),
  tenantid: tenantIdSchema.optional().catch(undefined),
  correlationid: envelopeSchema.shape.correlationid.catch(undefined),
  data: z.unknown(),
});

/** What a consumer writes on the copy that it dead-letters: code, words, when. */
const failure = {
  code: "x-muster-error-code",
  message: "x-muster-error-message",
  failedAt: "x-muster-failed-at",
} as const;

/** Reads a dead letter as far as it can be read; never throws. */
export function readDeath(delivery: DeadDelivery): Death {
  const parked = delivery.queue === unroutedQueue;
  // What an agent publishes may carry a forged history; only a message that died has one that the broker wrote.
  const history = parked ? [] : historyOf(delivery.headers);
  const last = history[0];
  const copied = !parked && last === undefined && delivery.exchange === deadLettersExchange;
  const queue = last?.queue ?? (copied ? delivery.routingKey : delivery.queue);
  const read = attributesOf(delivery);
  const messageId = delivery.messageId ?? read.id ?? "";
  const vm = vmOfQueue(queue);
  // What a stranger put into a VM's queue says nothing about the command that it names.
  const strange = vm !== undefined && !mayRing(vmCommandDoorbell, senderOf(delivery.userId));
  const command = vm === undefined || strange ? null : doorbellOf(read.data, vm.vmUuid);
  const routed = {
    queue,
    exchange: last?.exchange ?? (copied ? "" : delivery.exchange),
    routingKey: last?.["routing-keys"][0] ?? (last === undefined ? delivery.routingKey : queue),
  };
  return {
    key: keyOf(delivery, queue, messageId, last),
    queue: storableText(queue, 255),
    reason: storableText(last?.reason ?? (parked ? "unrouted" : "rejected"), 64),
    exchange: storableText(routed.exchange, 255),
    routingKey: storableText(routed.routingKey, 255),
    type: storableText(read.type ?? delivery.type ?? "", 255),
    messageId: storableText(messageId, 128),
    contentType: delivery.contentType === undefined ? null : storableText(delivery.contentType, 255),
    tenantId: tenantOf(routed, read.tenantid),
    vmUuid: vm?.vmUuid ?? null,
    command,
    correlationId: read.correlationid ?? null,
    lastError: strange ? strangerOf(delivery.userId) : lastErrorOf(delivery.headers),
    deaths: parked
      ? 0
      : Math.max(
          1,
          history.reduce((sum, entry) => sum + entry.count, 0),
        ),
    diedAtMs: last?.time ?? failedAtOf(delivery.headers),
    headers: storableRecord(delivery.headers),
    history: rawHistory(delivery.headers),
    body: delivery.body.subarray(0, bodyBytesMax),
    bodyBytes: delivery.body.length,
  };
}

function historyOf(headers: DeadDelivery["headers"]): DeathEntry[] {
  const entries = headers["x-death"];
  if (!Array.isArray(entries)) return [];
  return entries.slice(0, 64).flatMap((entry) => {
    const parsed = deathEntry.safeParse(entry);
    return parsed.success ? [parsed.data] : [];
  });
}

function rawHistory(headers: DeadDelivery["headers"]): Record<string, unknown>[] {
  const stored = z
    .array(z.record(z.string(), z.unknown()))
    .safeParse(storableJson(headers["x-death"] ?? [], 0));
  return stored.success ? stored.data : [];
}

function attributesOf(delivery: DeadDelivery): z.infer<typeof attributes> {
  const read: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(delivery.headers)) {
    const prefix = headerPrefixes.find((known) => name.startsWith(known));
    if (prefix !== undefined) read[name.slice(prefix.length).toLowerCase()] = value;
  }
  const structured = (delivery.contentType ?? "").toLowerCase().startsWith("application/cloudevents+json");
  const body = z.record(z.string(), z.unknown()).safeParse(jsonOf(delivery.body));
  if (structured && body.success) Object.assign(read, body.data);
  else if (body.success) read["data"] = body.data;
  return attributes.catch({ data: undefined }).parse(read);
}

function jsonOf(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString("utf8"));
  } catch {
    return undefined;
  }
}

function doorbellOf(data: unknown, vmUuid: string): DeadCommand | null {
  const doorbell = doorbellPayload
    .pick({ command_id: true, vm_uuid: true, attempt: true, kind: true })
    .safeParse(data);
  return doorbell.success && doorbell.data.vm_uuid === vmUuid ? doorbell.data : null;
}

/**
 * Whose dead letter it is. The name of a VM's queue and the routing key of a report are the broker's own word;
 * what an agent wrote into a body is not, and decides nothing.
 */
function tenantOf(
  routed: { queue: string; exchange: string; routingKey: string },
  claimed: string | undefined,
): string | null {
  const kind = queueKindOf(routed.queue);
  if (kind === "vm") return vmOfQueue(routed.queue)?.tenantId ?? null;
  if (routed.exchange === agentsExchange) return tenantOfReportKey(routed.routingKey) ?? null;
  const byAgents = kind === "agents" || reportQueues.has(routed.queue);
  return byAgents ? null : (claimed ?? null);
}

const reportQueues: ReadonlySet<string> = new Set([vmOpsAgentsQueue, reliabilityHeartbeatsQueue]);

/** What the consumer said when it gave the message up, where it could say it. */
function lastErrorOf(headers: DeadDelivery["headers"]): string | null {
  const parts = [failure.code, failure.message].flatMap((name) => {
    const value = headers[name];
    return typeof value === "string" && value !== "" ? [value] : [];
  });
  return parts.length === 0 ? null : storableText(parts.join(": "), 2_000);
}

function strangerOf(userId: string | undefined): string {
  return storableText(`FORBIDDEN: rung by ${userId ?? "nobody named"}, who may not`, 2_000);
}

function failedAtOf(headers: DeadDelivery["headers"]): number | null {
  const at = timestamp.safeParse(headers[failure.failedAt]);
  return at.success ? Date.parse(at.data) : null;
}

/** The time is part of it: losing sight of a second death would be worse than a second row for one. */
function keyOf(
  delivery: DeadDelivery,
  queue: string,
  messageId: string,
  last: DeathEntry | undefined,
): string {
  const identity = messageId === "" ? createHash("sha256").update(delivery.body).digest("hex") : messageId;
  const replays = delivery.headers[replayHeader];
  const death = [
    queue,
    identity,
    last?.reason,
    last?.count,
    last?.time,
    failedAtOf(delivery.headers),
    replays,
  ];
  return createHash("sha256").update(JSON.stringify(death)).digest("hex");
}
