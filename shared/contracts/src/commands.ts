import { z } from "zod";
import { actionName } from "./actions.ts";
import { faultDetail } from "./errors.ts";
import { sha256, timestamp, uuid } from "./ids.ts";

/** Every state of a command's life; which follows which is decided in vm-ops by one table. */
export const commandStates = [
  "awaiting_approval",
  "queued",
  "dispatched",
  "running",
  "denied",
  "succeeded",
  "failed",
  "expired",
  "cancelled",
  "dead_lettered",
] as const;
export const commandState = z.enum(commandStates);
export type CommandState = z.infer<typeof commandState>;

export const terminalStates = [
  "denied",
  "succeeded",
  "failed",
  "expired",
  "cancelled",
  "dead_lettered",
] as const;
export const isTerminal = (state: CommandState): boolean =>
  (terminalStates as readonly CommandState[]).includes(state);

/** What the command did to the world, as far as anyone can say; never guessed. */
export const effects = ["none", "partial", "unknown", "applied"] as const;
export const effect = z.enum(effects);
export type Effect = z.infer<typeof effect>;

export const desiredStates = ["run", "cancel"] as const;
export const desired = z.enum(desiredStates);

/** Why a command is in its state; stable, documented in docs/failure-modes.md where it is a failure. */
export const reasons = [
  "accepted",
  "doorbell_confirmed",
  "claimed",
  "completed",
  "exit_nonzero",
  "killed_by_signal",
  "start_failed",
  "secret_refused",
  "action_not_supported",
  "agent_restarted",
  "supervisor_lost",
  "execution_timeout",
  "cancel_requested",
  "cancelled_before_start",
  "cancelled_while_running",
  "delivery_timeout",
  "lease_lost",
  "late_result",
  "unclaimed",
  "abandoned",
  "dispatch_requeues_exhausted",
  "broker_gave_up",
  "doorbell_unreadable",
  "poison",
  "target_gone",
  "replayed",
  "gate_refused",
  "approval_needed",
  "approved",
  "approval_refused",
  "approval_expired",
] as const;
export const reason = z.enum(reasons);
export type Reason = z.infer<typeof reason>;

export const streamNames = ["stdout", "stderr"] as const;
export const streamName = z.enum(streamNames);
export type StreamName = z.infer<typeof streamName>;

/** Totals of one captured stream: what was written, what was kept, and the checksum over all that was written. */
export const streamTotals = z.object({
  bytes_total: z.number().int().min(0),
  /** How much the agent kept: the first and the last MiB. */
  bytes_kept: z.number().int().min(0),
  truncated: z.boolean(),
  sha256,
});

export const commandResult = z.object({
  exit_code: z.number().int().min(0).max(255).nullable(),
  signal: z.string().max(16).nullable(),
  /** How long it ran by the agent's monotonic clock, in milliseconds. */
  run_ms: z.number().int().min(0).nullable(),
  error: z.string().max(2_000).nullable(),
  output: z.object({ stdout: streamTotals, stderr: streamTotals }).nullable(),
  /** What `file.get`, `file.put`, `probe` and `ping` answer. */
  data: z.record(z.string().max(64), z.unknown()).nullable(),
});
export type CommandResult = z.infer<typeof commandResult>;

export const label = z
  .string()
  .regex(/^[A-Za-z0-9]([A-Za-z0-9_./-]{0,61}[A-Za-z0-9])?$/, "must be a label of at most 63 characters");
export const labels = z
  .record(
    label,
    z
      .string()
      .max(63)
      .regex(/^[A-Za-z0-9_./-]*$/, "must be a label value"),
  )
  .refine((map) => Object.keys(map).length <= 64, "at most 64 labels");

/** What a waiting command waits for; null when it does not wait. */
export const waitingFor = z
  .object({
    code: z.enum([
      "approval",
      "broker",
      "agent_offline",
      "no_agent",
      "earlier_command",
      "claim",
      "result",
      "cancel",
    ]),
    message: z.string(),
  })
  .nullable();

export const commandSummary = z.object({
  id: uuid,
  vm_uuid: uuid,
  action: actionName,
  lane: z.enum(["work", "control"]),
  state: commandState,
  desired,
  reason,
  effect,
  attempt: z.number().int().min(1),
  requeues: z.number().int().min(0),
  /** The result came after the command had been judged expired, and corrected it. */
  late: z.boolean(),
  exit_code: z.number().int().nullable(),
  environment: z.string().nullable(),
  project_id: z.string().nullable(),
  requested_by: z.string(),
  correlation_id: z.string(),
  timeout_seconds: z.number(),
  accepted_at: timestamp,
  expires_at: timestamp,
  dispatched_at: timestamp.nullable(),
  started_at: timestamp.nullable(),
  finished_at: timestamp.nullable(),
  agent_id: uuid.nullable(),
});
export type CommandSummary = z.infer<typeof commandSummary>;

export const commandDetail = commandSummary.extend({
  params: z.record(z.string(), z.unknown()),
  result: commandResult.nullable(),
  waiting_for: waitingFor,
});
export type CommandDetail = z.infer<typeof commandDetail>;

/** The first answer to a request, and the same again for the same Idempotency-Key: only what never changes. */
export const acceptedCommand = commandSummary
  .pick({
    id: true,
    vm_uuid: true,
    action: true,
    environment: true,
    project_id: true,
    requested_by: true,
    correlation_id: true,
    timeout_seconds: true,
    accepted_at: true,
    expires_at: true,
  })
  .extend({ state: commandState });

export const commandEvent = z.object({
  id: z.number().int(),
  at: timestamp,
  from: commandState.nullable(),
  to: commandState,
  attempt: z.number().int(),
  reason,
  /** Which rule decided: the row of the table, the sweep's rule, or the policy's branch. */
  rule: z.string().max(64),
  actor: z.string().max(200),
  details: z.record(z.string(), z.unknown()),
});
export type CommandEvent = z.infer<typeof commandEvent>;

export const outputChunk = z.object({
  stream: streamName,
  /** Where this chunk starts in the stream; a jump from the chunk before is output that was cut. */
  offset: z.number().int().min(0),
  data_base64: z.base64(),
});

/** A position in the output of a command: how far each stream was read. Opaque to callers: `<stdout>.<stderr>`. */
export const outputCursor = z
  .string()
  .regex(/^[0-9]{1,15}\.[0-9]{1,15}$/, "must be an id that this stream gave");

export const outputPage = z.object({
  state: commandState,
  attempt: z.number().int(),
  chunks: z.array(outputChunk),
  cursor: outputCursor,
  /** Nothing more will come: the command has ended and its output is complete. */
  complete: z.boolean(),
  totals: z.object({ stdout: streamTotals, stderr: streamTotals }).nullable(),
});
export type OutputPage = z.infer<typeof outputPage>;

export const vmView = z.object({
  vm_uuid: uuid,
  name: z.string(),
  labels: z.record(z.string(), z.string()),
  state: z.enum(["active", "retired"]),
  epoch: z.number().int().min(1),
  concurrency: z.number().int().min(1),
  agent: z
    .object({ agent_id: uuid, online: z.boolean(), version: z.string(), session_started_at: timestamp })
    .nullable(),
  registered_at: timestamp,
  retired_at: timestamp.nullable(),
});
export type VmView = z.infer<typeof vmView>;

/** A page of a listing, newest first. */
export const page = <T extends z.ZodType>(item: T) =>
  z.object({ items: z.array(item), next_cursor: z.string().nullable() });

export const faults = z.array(faultDetail);
