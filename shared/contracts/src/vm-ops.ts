import { z } from "zod";
import { actionName, expiresInBoundsMs, timeoutBoundsMs } from "./actions.ts";
import {
  acceptedCommand,
  commandDetail,
  commandEvent,
  commandState,
  commandSummary,
  effect,
  labels,
  outputCursor,
  outputPage,
  page,
  reason,
  vmView,
} from "./commands.ts";
import { attemptRequests } from "./attempts.ts";
import { defineBatchRequest, defineEvent, defineRequest } from "./define.ts";
import { housekeepingRequests } from "./housekeeping.ts";
import { moment, plainText, sha256, tenantId, timestamp, uuid } from "./ids.ts";

/** Any visible ASCII, as in draft-ietf-httpapi-idempotency-key-header, at most 255 characters. */
export const idempotencyKey = z.string().regex(/^[\x21-\x7e]{1,255}$/);

export const vmName = z
  .string()
  .min(1)
  .max(128)
  .regex(/^[^\p{Cc}]+$/u, "must not contain control characters");
export const limit = z.number().int().min(1).max(200);
export const cursor = z.string().min(1).max(512);

export const projectId = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/, "must be a name of at most 128 characters");
export const environmentName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/, "must be a name of at most 64 characters");

/** What a caller asks for; durations here in seconds, as over HTTP. */
export const commandRequest = z.strictObject({
  vm_uuid: uuid,
  action: actionName,
  /** Checked against the action's own schema. */
  params: z.record(z.string(), z.unknown()).default({}),
  timeout_seconds: z
    .number()
    .min(timeoutBoundsMs.min / 1_000)
    .max(timeoutBoundsMs.max / 1_000)
    .optional(),
  expires_in_seconds: z
    .number()
    .min(expiresInBoundsMs.min / 1_000)
    .max(expiresInBoundsMs.max / 1_000)
    .optional(),
  environment: environmentName.optional(),
  project_id: projectId.optional(),
});

export const vmRegistration = z.strictObject({
  vm_uuid: uuid.optional(),
  name: vmName,
  labels: labels.default({}),
  /** How many commands of the work lane may run at once. */
  concurrency: z.number().int().min(1).max(64).default(1),
});

export const vmChange = z
  .strictObject({
    name: vmName.optional(),
    /** Replaces all labels. */
    labels: labels.optional(),
    concurrency: z.number().int().min(1).max(64).optional(),
  })
  .refine((change) => Object.keys(change).length > 0, "name at least one of name, labels, concurrency")
  .meta({ minProperties: 1 });

export const commandFilter = z.object({
  vm_uuid: uuid.optional(),
  action: actionName.optional(),
  states: z.array(commandState).max(10).optional(),
  accepted_after: moment.optional(),
  accepted_before: moment.optional(),
  correlation_id: plainText.max(128).optional(),
});

export const sweepRules = [
  "delivery_timeout",
  "unclaimed",
  "lease_lost",
  "execution_timeout",
  "cancel_unconfirmed",
  "target_gone",
] as const;
export const sweepRule = z.enum(sweepRules);

export const sweepReport = z.object({
  dry_run: z.boolean(),
  rules: z.array(
    z.object({
      rule: sweepRule,
      /** Commands that the rule met, and those that it changed (none in a dry run). */
      matched: z.number().int().min(0),
      changed: z.number().int().min(0),
      expired: z.number().int().min(0),
      requeued: z.number().int().min(0),
      dead_lettered: z.number().int().min(0),
      command_ids: z.array(uuid).max(20),
    }),
  ),
  /** A rule met its limit: ask again. */
  more: z.boolean(),
  /** How long leases are still forgiven after an outage, in milliseconds; 0 when they are not. */
  amnesty_ms: z.number().int().min(0),
});

const commandEnd = z.object({
  state: commandState,
  reason,
  effect,
  attempt: z.number().int().min(1),
  late: z.boolean(),
});

export const vmOpsRequests = {
  ...attemptRequests,
  registerVm: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.vm.register.v1",
    summary: "Register a VM and make its durable queue.",
    payload: z.object({ vm: vmRegistration, idempotency_key: idempotencyKey.optional() }),
    reply: z.object({ vm: vmView, replayed: z.boolean() }),
    codes: ["VM_ALREADY_REGISTERED", "IDEMPOTENCY_KEY_REUSED"],
  }),
  listVms: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.vm.list.v1",
    summary: "List VMs by label and state, newest first.",
    payload: z.object({
      labels: z.record(plainText, plainText).default({}),
      state: z.enum(["active", "retired"]).optional(),
      limit,
      cursor: cursor.optional(),
    }),
    reply: page(vmView),
    codes: ["CURSOR_INVALID"],
  }),
  getVm: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.vm.get.v1",
    summary: "Read one VM.",
    payload: z.object({ vm_uuid: uuid }),
    reply: vmView,
    codes: ["VM_NOT_FOUND"],
  }),
  updateVm: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.vm.update.v1",
    summary: "Change a VM's name, labels or concurrency.",
    payload: z.object({ vm_uuid: uuid, change: vmChange }),
    reply: vmView,
    codes: ["VM_NOT_FOUND", "VM_RETIRED"],
  }),
  retireVm: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.vm.retire.v1",
    summary:
      "Retire a VM: what waits for it ends as target_gone, what runs is cancelled, its queue is removed.",
    payload: z.object({ vm_uuid: uuid }),
    reply: vmView,
    codes: ["VM_NOT_FOUND"],
  }),
  acceptCommand: defineBatchRequest({
    owner: "vm-ops",
    name: "vm-ops.command.accept.v1",
    summary: "Accept a command: written down with its doorbell in one transaction.",
    payload: z.object({ command: commandRequest, idempotency_key: idempotencyKey.optional() }),
    reply: z.object({ command: acceptedCommand, replayed: z.boolean() }),
    codes: ["VM_NOT_FOUND", "VM_RETIRED", "VM_QUEUE_FULL", "IDEMPOTENCY_KEY_REUSED", "ACTION_NOT_SUPPORTED"],
    payloadBytesMax: 4 * 1024 * 1024,
    batch: { sizeMax: 100, waitMs: 0 },
  }),
  acceptFollowUp: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.command.follow-up.v1",
    callers: ["secrets"],
    summary:
      "Accept a command that follows from what a principal did elsewhere; the same key again tells how it ended.",
    payload: z.object({
      tenant_id: tenantId,
      /** Who did what it follows from: the command is his. */
      requested_by: plainText.min(1).max(200),
      command: commandRequest,
      idempotency_key: idempotencyKey,
    }),
    payloadBytesMax: 256 * 1024,
    reply: z.object({
      command: acceptedCommand,
      replayed: z.boolean(),
      /** As it is now; null while it has not ended. */
      ended: commandEnd.nullable(),
    }),
    codes: ["VM_NOT_FOUND", "VM_RETIRED", "VM_QUEUE_FULL", "IDEMPOTENCY_KEY_REUSED", "ACTION_NOT_SUPPORTED"],
    identity: "none",
  }),
  listCommands: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.command.list.v1",
    summary: "List commands by filters, newest first.",
    payload: z.object({ filter: commandFilter, limit, cursor: cursor.optional() }),
    reply: page(commandSummary),
    codes: ["CURSOR_INVALID"],
  }),
  getCommand: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.command.get.v1",
    callers: ["gateway", "reliability"],
    summary: "Read one command with its result and what it waits for.",
    payload: z.object({ command_id: uuid }),
    reply: commandDetail,
    codes: ["COMMAND_NOT_FOUND"],
  }),
  listCommandEvents: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.command.events.v1",
    summary: "A command's history, oldest first.",
    payload: z.object({ command_id: uuid, limit, cursor: cursor.optional() }),
    reply: page(commandEvent),
    codes: ["COMMAND_NOT_FOUND", "CURSOR_INVALID"],
  }),
  readOutput: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.command.output.v1",
    summary: "Output of a command from a position on, at most about 256 KiB at once.",
    payload: z.object({ command_id: uuid, cursor: outputCursor.optional() }),
    reply: outputPage,
    codes: ["COMMAND_NOT_FOUND"],
  }),
  cancelCommand: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.command.cancel.v1",
    summary: "Cancel: at once before a claim; after it the agent is told and must confirm.",
    payload: z.object({ command_id: uuid, note: z.string().max(500).optional() }),
    reply: z.object({
      /** `cancelled`: done. `requested`: it runs, the agent was told. */
      outcome: z.enum(["cancelled", "requested"]),
      command: commandDetail,
    }),
    codes: ["COMMAND_NOT_FOUND", "TOO_LATE"],
  }),
  replayCommand: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.command.replay.v1",
    callers: ["reliability"],
    summary: "Put a dead-lettered command back into its VM's queue as a new attempt.",
    payload: z.object({ command_id: uuid, dead_letter_id: uuid }),
    reply: z.object({ command_id: uuid, attempt: z.number().int(), state: commandState }),
    codes: ["COMMAND_NOT_FOUND", "NOT_REPLAYABLE", "VM_RETIRED"],
  }),
  sweepCommands: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.commands.sweep.v1",
    callers: ["reliability"],
    summary: "Sweep stale and expired commands by these thresholds; asked by the reliability service.",
    payload: z.object({
      rules: z.array(sweepRule).min(1).max(sweepRules.length),
      running_max_ms: z.number().int().min(60_000),
      dispatched_max_ms: z.number().int().min(15_000),
      dispatch_max_requeues: z.number().int().min(0),
      limit: z.number().int().min(1).max(10_000),
      dry_run: z.boolean(),
    }),
    reply: sweepReport,
    codes: [],
    timeoutMs: 60_000,
    identity: "none",
  }),
  ...housekeepingRequests,
} as const;

const commandFact = {
  command_id: uuid,
  vm_uuid: uuid,
  action: actionName,
  attempt: z.number().int().min(1),
  at: timestamp,
};

export const vmRegistered = defineEvent({
  owner: "vm-ops",
  name: "vm-ops.vm.registered.v1",
  summary: "A VM was registered.",
  external: true,
  payload: z.object({
    vm_uuid: uuid,
    name: z.string(),
    labels: z.record(z.string(), z.string()),
    at: timestamp,
  }),
});

export const vmRetired = defineEvent({
  owner: "vm-ops",
  name: "vm-ops.vm.retired.v1",
  summary: "A VM was retired; its epoch is over.",
  external: true,
  payload: z.object({ vm_uuid: uuid, epoch: z.number().int(), at: timestamp }),
});

export const commandAccepted = defineEvent({
  owner: "vm-ops",
  name: "vm-ops.command.accepted.v1",
  summary: "A command was accepted and written down.",
  external: true,
  payload: z.object({
    ...commandFact,
    payload_sha256: sha256,
    environment: z.string().nullable(),
    project_id: z.string().nullable(),
    requested_by: z.string(),
    expires_at: timestamp,
  }),
});

export const commandStarted = defineEvent({
  owner: "vm-ops",
  name: "vm-ops.command.started.v1",
  summary: "A claim was granted: the agent may start.",
  external: true,
  payload: z.object({ ...commandFact, agent_id: uuid }),
});

export const commandFinished = defineEvent({
  owner: "vm-ops",
  name: "vm-ops.command.finished.v1",
  summary: "A command reached a terminal state, or a late result corrected it.",
  external: true,
  payload: z.object({
    ...commandFact,
    state: commandState,
    reason,
    effect,
    late: z.boolean(),
    exit_code: z.number().int().nullable(),
    run_ms: z.number().int().nullable(),
    environment: z.string().nullable(),
    project_id: z.string().nullable(),
  }),
});

export const commandDeadLettered = defineEvent({
  owner: "vm-ops",
  name: "vm-ops.command.dead-lettered.v1",
  summary: "A command was given up: its requeues are used up, its doorbell was unreadable, or it is poison.",
  payload: z.object({
    ...commandFact,
    reason,
    rule: z.string().max(64),
    requeues: z.number().int().min(0),
    correlation_id: z.string().max(128),
    last_error: z.string().max(2_000).nullable(),
  }),
});

export const commandReplayed = defineEvent({
  owner: "vm-ops",
  name: "vm-ops.command.replayed.v1",
  summary: "An operator put a dead-lettered command back.",
  payload: z.object({ ...commandFact, dead_letter_id: uuid }),
});

export const vmOpsEvents = {
  vmRegistered,
  vmRetired,
  commandAccepted,
  commandStarted,
  commandFinished,
  commandDeadLettered,
  commandReplayed,
} as const;

/** Lossy hints that wake viewers; routing key = command id. Reads are authoritative. */
export const liveHint = z.object({ command_id: uuid });
