import { z } from "zod";
import {
  acceptedCommand,
  commandDetail,
  commandEvent,
  commandState,
  commandSummary,
  vmView,
} from "./commands.ts";
import { actionName } from "./actions.ts";
import { correlationId } from "./envelope.ts";
import { moment, plainText, uuid } from "./ids.ts";
import { followedPage, outputPosition } from "./output-stream.ts";
import {
  deadLetterDetail,
  deadLetterStates,
  deadLetterView,
  presenceView,
  replayOutcome,
  sweepRequest,
} from "./reliability.ts";
import { defineRoute, pageFields } from "./route.ts";
import { authRoutes } from "./routes/auth.ts";
import { secretsRoutes } from "./routes/secrets.ts";
import { commandRequest, sweepReport, vmChange, vmRegistration } from "./vm-ops.ts";

const api = "/api/v1";
const vmParams = z.object({ vm_uuid: uuid });
const commandParams = z.object({ id: uuid });
const deadLetterParams = z.object({ id: uuid });

/** `role=web,env=prod`: labels that must all be there. */
const labelSelector = z
  .string()
  .max(2_048)
  .regex(
    /^[A-Za-z0-9_./-]+=[A-Za-z0-9_./-]*(,[A-Za-z0-9_./-]+=[A-Za-z0-9_./-]*)*$/,
    "must be name=value pairs with commas between",
  );

/** `queued,running`. */
const stateList = z
  .string()
  .max(200)
  .transform((text) => text.split(","))
  .pipe(z.array(commandState).max(10));

const deadLetterQuery = {
  state: z.enum(deadLetterStates).optional(),
  kind: z.enum(["message", "command"]).optional(),
  queue: plainText.min(1).max(255).optional(),
  type: plainText.min(1).max(255).optional(),
  reason: plainText.min(1).max(64).optional(),
  vm_uuid: uuid.optional(),
};

/** Every HTTP route of the system, by the key of its handler in the gateway. */
export const routes = {
  ...authRoutes,
  ...secretsRoutes,
  registerVm: defineRoute({
    method: "POST",
    path: `${api}/vms`,
    summary: "Register a VM.",
    tag: "vms",
    access: "admin",
    body: vmRegistration,
    status: 201,
    reply: z.object({ vm: vmView }),
    codes: ["VM_ALREADY_REGISTERED", "IDEMPOTENCY_KEY_REUSED"],
  }),
  listVms: defineRoute({
    method: "GET",
    path: `${api}/vms`,
    summary: "List VMs, newest first.",
    tag: "vms",
    access: "member",
    query: z.strictObject({
      ...pageFields,
      labels: labelSelector.optional(),
      state: z.enum(["active", "retired"]).optional(),
    }),
    status: 200,
    reply: z.object({ vms: z.array(vmView) }),
    meta: "cursor",
    codes: [],
  }),
  getVm: defineRoute({
    method: "GET",
    path: `${api}/vms/{vm_uuid}`,
    summary: "Read one VM.",
    tag: "vms",
    access: "member",
    params: vmParams,
    status: 200,
    reply: z.object({ vm: vmView }),
    codes: ["VM_NOT_FOUND"],
  }),
  updateVm: defineRoute({
    method: "PATCH",
    path: `${api}/vms/{vm_uuid}`,
    summary: "Rename a VM, replace its labels or set its concurrency.",
    tag: "vms",
    access: "admin",
    params: vmParams,
    body: vmChange,
    status: 200,
    reply: z.object({ vm: vmView }),
    codes: ["VM_NOT_FOUND", "VM_RETIRED"],
  }),
  retireVm: defineRoute({
    method: "DELETE",
    path: `${api}/vms/{vm_uuid}`,
    summary: "Retire a VM: what waits ends as target_gone, what runs is cancelled. Again is harmless.",
    tag: "vms",
    access: "admin",
    params: vmParams,
    status: 200,
    reply: z.object({ vm: vmView }),
    codes: ["VM_NOT_FOUND"],
  }),
  acceptCommand: defineRoute({
    method: "POST",
    path: `${api}/vm-ops/commands`,
    summary: "Run an action on a VM.",
    tag: "commands",
    access: "member",
    body: commandRequest,
    status: 202,
    reply: z.object({ command: acceptedCommand }),
    codes: ["VM_NOT_FOUND", "VM_RETIRED", "VM_QUEUE_FULL", "IDEMPOTENCY_KEY_REUSED", "ACTION_NOT_SUPPORTED"],
  }),
  listCommands: defineRoute({
    method: "GET",
    path: `${api}/vm-ops/commands`,
    summary: "List commands, newest first.",
    tag: "commands",
    access: "member",
    query: z.strictObject({
      ...pageFields,
      vm_uuid: uuid.optional(),
      action: actionName.optional(),
      state: stateList.optional(),
      accepted_after: moment.optional(),
      accepted_before: moment.optional(),
      correlation_id: correlationId.optional(),
    }),
    status: 200,
    reply: z.object({ commands: z.array(commandSummary) }),
    meta: "cursor",
    codes: [],
  }),
  getCommand: defineRoute({
    method: "GET",
    path: `${api}/vm-ops/commands/{id}`,
    summary: "Read one command: state, result, and what it waits for.",
    tag: "commands",
    access: "member",
    params: commandParams,
    status: 200,
    reply: z.object({ command: commandDetail }),
    codes: ["COMMAND_NOT_FOUND"],
  }),
  listCommandEvents: defineRoute({
    method: "GET",
    path: `${api}/vm-ops/commands/{id}/events`,
    summary: "A command's history, oldest first.",
    tag: "commands",
    access: "member",
    params: commandParams,
    query: z.strictObject(pageFields),
    status: 200,
    reply: z.object({ events: z.array(commandEvent) }),
    meta: "cursor",
    codes: ["COMMAND_NOT_FOUND"],
  }),
  readOutput: defineRoute({
    method: "GET",
    path: `${api}/vm-ops/commands/{id}/output`,
    summary: "Output so far; as an event stream it is followed live and resumes by Last-Event-ID.",
    tag: "commands",
    access: "member",
    params: commandParams,
    query: z.strictObject({ cursor: outputPosition.optional() }),
    status: 200,
    reply: followedPage,
    stream: "text/event-stream",
    codes: ["COMMAND_NOT_FOUND"],
  }),
  cancelCommand: defineRoute({
    method: "POST",
    path: `${api}/vm-ops/commands/{id}/cancel`,
    summary: "Cancel a command: at once before it starts, by the agent after.",
    tag: "commands",
    access: "member",
    params: commandParams,
    body: z.strictObject({ note: z.string().max(500).optional() }),
    status: 200,
    reply: z.object({ outcome: z.enum(["cancelled", "requested"]), command: commandDetail }),
    codes: ["COMMAND_NOT_FOUND", "TOO_LATE"],
  }),
  listDeadLetters: defineRoute({
    method: "GET",
    path: `${api}/reliability/dead-letters`,
    summary: "List dead letters, newest first.",
    tag: "reliability",
    access: "member",
    query: z.strictObject({ ...pageFields, ...deadLetterQuery }),
    status: 200,
    reply: z.object({ dead_letters: z.array(deadLetterView) }),
    meta: "cursor",
    codes: [],
  }),
  getDeadLetter: defineRoute({
    method: "GET",
    path: `${api}/reliability/dead-letters/{id}`,
    summary: "One dead letter with its history, body and audit.",
    tag: "reliability",
    access: "member",
    params: deadLetterParams,
    status: 200,
    reply: z.object({ dead_letter: deadLetterDetail }),
    codes: ["DEAD_LETTER_NOT_FOUND"],
  }),
  replayDeadLetter: defineRoute({
    method: "POST",
    path: `${api}/reliability/dead-letters/{id}/replay`,
    summary: "Send it again with its original routing.",
    tag: "reliability",
    access: "admin",
    params: deadLetterParams,
    status: 200,
    reply: replayOutcome,
    codes: ["DEAD_LETTER_NOT_FOUND", "NOT_REPLAYABLE"],
  }),
  replayDeadLetters: defineRoute({
    method: "POST",
    path: `${api}/reliability/dead-letters/replay`,
    summary: "Replay the open dead letters that match, oldest first.",
    tag: "reliability",
    access: "admin",
    body: z.strictObject({
      kind: deadLetterQuery.kind,
      queue: deadLetterQuery.queue,
      type: deadLetterQuery.type,
      reason: deadLetterQuery.reason,
      vm_uuid: deadLetterQuery.vm_uuid,
      limit: z.number().int().min(1).max(200).default(50),
    }),
    status: 200,
    reply: z.object({
      replayed: z.array(replayOutcome),
      refused: z.array(z.object({ id: uuid, code: z.string(), message: z.string() })),
      more: z.boolean(),
    }),
    codes: [],
  }),
  discardDeadLetter: defineRoute({
    method: "POST",
    path: `${api}/reliability/dead-letters/{id}/discard`,
    summary: "Settle it without sending it again; the reason is kept.",
    tag: "reliability",
    access: "admin",
    params: deadLetterParams,
    body: z.strictObject({ reason: plainText.min(1).max(500) }),
    status: 200,
    reply: z.object({ dead_letter: deadLetterView }),
    codes: ["DEAD_LETTER_NOT_FOUND", "NOT_REPLAYABLE"],
  }),
  listAgents: defineRoute({
    method: "GET",
    path: `${api}/reliability/agents`,
    summary: "Presence of agents: online, lost since when, version, what they run.",
    tag: "reliability",
    access: "member",
    query: z.strictObject({ ...pageFields, state: presenceView.shape.state.optional() }),
    status: 200,
    reply: z.object({ agents: z.array(presenceView) }),
    meta: "cursor",
    codes: [],
  }),
  runSweep: defineRoute({
    method: "POST",
    path: `${api}/reliability/sweeps`,
    summary: "Run a sweep now; the answer says what it did, or with dry_run would do.",
    tag: "reliability",
    access: "admin",
    body: sweepRequest,
    status: 200,
    reply: sweepReport,
    codes: [],
  }),
} as const;
