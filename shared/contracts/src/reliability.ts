import { z } from "zod";
import { defineEvent, defineRequest } from "./define.ts";
import { plainText, tenantId, timestamp, uuid } from "./ids.ts";
import { page } from "./commands.ts";
import { cursor, limit, sweepReport, sweepRule } from "./vm-ops.ts";

export const deadLetterStates = ["open", "replayed", "discarded"] as const;

/** Where a dead letter came from: a message that the broker gave up, or a command that vm-ops gave up. */
export const deadLetterView = z.object({
  id: uuid,
  kind: z.enum(["message", "command"]),
  state: z.enum(deadLetterStates),
  /** Queue in which it died; for a command its VM's queue. */
  queue: z.string(),
  /** `rejected`, `delivery_limit`, `expired`, `maxlen`, or the command's reason. */
  reason: z.string(),
  /** Wire name of the message; empty when it could not be read. */
  type: z.string(),
  message_id: z.string(),
  command_id: uuid.nullable(),
  vm_uuid: uuid.nullable(),
  correlation_id: z.string().nullable(),
  last_error: z.string().nullable(),
  /** What this means and what to do, in one sentence. */
  diagnosis: z.string(),
  deaths: z.number().int().min(0),
  died_at: timestamp,
  recorded_at: timestamp,
  settled_at: timestamp.nullable(),
  settled_by: z.string().nullable(),
  settle_reason: z.string().nullable(),
});
export type DeadLetterView = z.infer<typeof deadLetterView>;

export const deadLetterDetail = deadLetterView.extend({
  exchange: z.string(),
  routing_key: z.string(),
  headers: z.record(z.string(), z.unknown()),
  /** RabbitMQ's x-death, newest first. */
  history: z.array(z.record(z.string(), z.unknown())),
  /** At most 64 KiB of the body as text; base64 where it is not UTF-8. */
  body: z.string(),
  body_encoding: z.enum(["utf8", "base64"]),
  body_truncated: z.boolean(),
  /** Who did what to it, oldest first. */
  audit: z.array(
    z.object({ at: timestamp, actor: z.string(), action: z.string(), note: z.string().nullable() }),
  ),
});

export const deadLetterFilter = z.object({
  state: z.enum(deadLetterStates).optional(),
  kind: z.enum(["message", "command"]).optional(),
  queue: plainText.max(255).optional(),
  type: plainText.max(255).optional(),
  reason: plainText.max(64).optional(),
  vm_uuid: uuid.optional(),
});

export const presenceView = z.object({
  agent_id: uuid,
  state: z.enum(["online", "suspect", "lost", "stopped"]),
  version: z.string(),
  drivers: z.array(z.string()),
  vm_uuids: z.array(uuid),
  running: z.number().int().min(0),
  load_1m: z.number(),
  clock_skew_ms: z.number().int(),
  journal_writable: z.boolean(),
  first_seen_at: timestamp,
  last_seen_at: timestamp,
  lost_at: timestamp.nullable(),
});
export type PresenceView = z.infer<typeof presenceView>;

export const sweepRequest = z.strictObject({
  rules: z.array(sweepRule).min(1).optional(),
  limit: z.number().int().min(1).max(10_000).default(500),
  dry_run: z.boolean().default(false),
});

export const replayOutcome = z.object({
  id: uuid,
  kind: z.enum(["message", "command"]),
  state: z.enum(deadLetterStates),
  /** Where it went: the original exchange and routing key, or the command's new attempt. */
  replayed_to: z.string(),
});

export const reliabilityRequests = {
  listDeadLetters: defineRequest({
    owner: "reliability",
    name: "reliability.dead-letter.list.v1",
    summary: "List dead letters of the caller's tenant by filters, newest first.",
    payload: z.object({ filter: deadLetterFilter, limit, cursor: cursor.optional() }),
    reply: page(deadLetterView),
    codes: ["CURSOR_INVALID"],
  }),
  getDeadLetter: defineRequest({
    owner: "reliability",
    name: "reliability.dead-letter.get.v1",
    summary: "One dead letter with its whole history.",
    payload: z.object({ dead_letter_id: uuid }),
    reply: deadLetterDetail,
    codes: ["DEAD_LETTER_NOT_FOUND"],
  }),
  replayDeadLetter: defineRequest({
    owner: "reliability",
    name: "reliability.dead-letter.replay.v1",
    summary: "Send it again with its original routing, or put its command back.",
    payload: z.object({ dead_letter_id: uuid }),
    reply: replayOutcome,
    codes: ["DEAD_LETTER_NOT_FOUND", "NOT_REPLAYABLE"],
    timeoutMs: 20_000,
  }),
  replayDeadLetters: defineRequest({
    owner: "reliability",
    name: "reliability.dead-letter.replay-many.v1",
    summary: "Replay the open dead letters that match, oldest first, up to a limit.",
    payload: z.object({ filter: deadLetterFilter.omit({ state: true }), limit }),
    reply: z.object({
      replayed: z.array(replayOutcome),
      refused: z.array(z.object({ id: uuid, code: z.string(), message: z.string() })),
      /** More matched than the limit. */
      more: z.boolean(),
    }),
    codes: [],
    timeoutMs: 60_000,
  }),
  discardDeadLetter: defineRequest({
    owner: "reliability",
    name: "reliability.dead-letter.discard.v1",
    summary: "Settle it without sending it again; the reason is kept.",
    payload: z.object({ dead_letter_id: uuid, reason: plainText.min(1).max(500) }),
    reply: deadLetterView,
    codes: ["DEAD_LETTER_NOT_FOUND", "NOT_REPLAYABLE"],
  }),
  listAgents: defineRequest({
    owner: "reliability",
    name: "reliability.agent.list.v1",
    summary: "Presence of the caller's agents.",
    payload: z.object({ state: presenceView.shape.state.optional(), limit, cursor: cursor.optional() }),
    reply: page(presenceView),
    codes: ["CURSOR_INVALID"],
  }),
  runSweep: defineRequest({
    owner: "reliability",
    name: "reliability.sweep.run.v1",
    summary: "Ask the owners to sweep now; the answer says what it did or would do.",
    payload: z.object(sweepRequest.shape),
    reply: sweepReport,
    codes: [],
    timeoutMs: 60_000,
  }),
} as const;

export const agentLost = defineEvent({
  owner: "reliability",
  name: "reliability.agent.lost.v1",
  summary: "An agent has not been heard of for longer than its bound, or stopped.",
  payload: z.object({
    agent_id: uuid,
    generation: z.number().int().min(1),
    last_seen_at: timestamp,
    at: timestamp,
    /** `lost`: it fell silent. `stopped`: it said that it stops. */
    kind: z.enum(["lost", "stopped"]),
  }),
});

export const agentRecovered = defineEvent({
  owner: "reliability",
  name: "reliability.agent.recovered.v1",
  summary: "An agent that was lost is heard of again, or a new one for the first time.",
  payload: z.object({ agent_id: uuid, generation: z.number().int().min(1), at: timestamp }),
});

export const deadLetterRecorded = defineEvent({
  owner: "reliability",
  name: "reliability.dead-letter.recorded.v1",
  summary:
    "A dead letter is in the table. What the broker gave up of a VM's queue is put to the requeue policy.",
  payload: z.object({
    dead_letter_id: uuid,
    tenant_id: tenantId.nullable(),
    queue: z.string().max(255),
    reason: z.string().max(64),
    type: z.string().max(255),
    message_id: z.string().max(128),
    /** Of a doorbell: what it rang for. */
    command: z
      .object({
        command_id: uuid,
        vm_uuid: uuid,
        attempt: z.number().int().min(1),
        kind: z.enum(["run", "cancel"]),
      })
      .nullable(),
    dispatch_max_requeues: z.number().int().min(0),
    at: timestamp,
  }),
});

export const reliabilityEvents = { agentLost, agentRecovered, deadLetterRecorded } as const;
