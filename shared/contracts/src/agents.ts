import { z } from "zod";
import { actionName } from "./actions.ts";
import { commandResult, desired, effect, reason, streamName } from "./commands.ts";
import { defineDoorbell, defineReport } from "./define.ts";
import { correlationId } from "./envelope.ts";
import { sha256, uuid } from "./ids.ts";

/** Queue of vm-ops for all reports but heartbeats, and of reliability for heartbeats. */
export const vmOpsAgentsQueue = "vm-ops.agents";
export const reliabilityHeartbeatsQueue = "reliability.heartbeats";

/** Most claims, progress reports or results that one message carries. */
export const itemsPerReportMax = 50;
export const outputChunkBytesMax = 64 * 1024;

const attempt = z.number().int().min(1).max(1_000_000);
const epoch = z.number().int().min(1);
const durationMs = z.number().int().min(0);

/** Which session of the agent speaks: the newest accepted generation wins. */
const session = z.object({ generation: z.number().int().min(1), session_id: uuid });

export const doorbellPayload = z.object({
  /** `run`: a command waits, claim it. `cancel`: ask for the desired state of this command now. */
  kind: z.enum(["run", "cancel"]),
  command_id: uuid,
  vm_uuid: uuid,
  attempt,
  epoch,
  lane: z.enum(["work", "control"]),
  action: actionName,
  payload_sha256: sha256,
  /** How long it may still wait, counted from receipt. */
  start_within_ms: durationMs,
  correlation_id: correlationId,
});
export type Doorbell = z.infer<typeof doorbellPayload>;

export const vmCommandDoorbell = defineDoorbell({
  owner: "vm-ops",
  name: "vm-ops.vm.doorbell.v1",
  summary: "Something waits for this VM: claim it. Lost, repeated or reordered doorbells are harmless.",
  payload: doorbellPayload,
});

export const driverView = z.object({ name: z.string().min(1).max(32), actions: z.array(actionName).max(64) });

export const agentHello = defineReport({
  owner: "vm-ops",
  name: "vm-ops.agent.hello.v1",
  report: "hello",
  summary: "An agent opens a session: who it is, which VMs it serves, where its journal stands.",
  payload: z.object({
    session_id: uuid,
    version: z.string().max(32),
    boot_id: z.string().max(64),
    journal_id: uuid,
    /** Number of the journal's newest record; a head behind the last one seen is a clone or a rolled-back snapshot. */
    journal_seq: z.number().int().min(0),
    /** The generation of the last session that this journal was granted; 0 before the first. */
    last_generation: z.number().int().min(0),
    vm_uuids: z.array(uuid).min(1).max(500),
    drivers: z.array(driverView).max(16),
    /** Attempts that the journal holds as not yet acknowledged by a stored result. */
    open: z.array(z.object({ command_id: uuid, attempt })).max(1_000),
  }),
  reply: z.object({
    generation: z.number().int().min(1),
    /** VMs that this agent now serves; one that is missing is not registered (or retired) and is asked again later. */
    vms: z.array(z.object({ vm_uuid: uuid, epoch, concurrency: z.number().int().min(1) })),
    /** What waits or should be running for these VMs now: rings again what a lost doorbell may have hidden. */
    pending: z.array(doorbellPayload).max(1_000),
    heartbeat_ms: durationMs,
  }),
  codes: ["AGENT_QUARANTINED", "AGENT_REVOKED"],
  batch: { sizeMax: 20, waitMs: 5 },
});

export const denyReasons = [
  "superseded",
  "cancelled",
  "expired",
  "wrong_epoch",
  "vm_busy",
  "gate_revoked",
  "paused",
  "retry",
] as const;

export const agentClaim = defineReport({
  owner: "vm-ops",
  name: "vm-ops.agent.claim.v1",
  report: "claim",
  summary:
    "Ask for the right to start: the only door to a side effect. The same nonce gets the same grant again.",
  payload: z.object({
    session,
    claims: z
      .array(z.object({ command_id: uuid, vm_uuid: uuid, attempt, epoch, nonce: uuid }))
      .min(1)
      .max(itemsPerReportMax),
  }),
  reply: z.object({
    outcomes: z.array(
      z.discriminatedUnion("outcome", [
        z.object({
          outcome: z.literal("granted"),
          command_id: uuid,
          attempt,
          /** Fencing token: goes with every later report about this attempt. */
          token: z.string().min(16).max(128),
          /** Counted by the agent's monotonic clock from the moment it sent the claim. */
          lease_ms: durationMs,
          timeout_ms: durationMs,
          action: actionName,
          params: z.record(z.string(), z.unknown()),
          correlation_id: correlationId,
        }),
        z.object({
          outcome: z.literal("denied"),
          command_id: uuid,
          attempt,
          reason: z.enum(denyReasons),
          /** vm_busy, paused, retry: when to ask again. */
          retry_after_ms: durationMs.optional(),
          /** vm_busy: the command that must start first, as its doorbell rings, which may have been lost. */
          first: doorbellPayload.optional(),
        }),
      ]),
    ),
  }),
  codes: ["AGENT_SUPERSEDED", "AGENT_QUARANTINED", "AGENT_REVOKED"],
  payloadBytesMax: 64 * 1024,
  batch: { sizeMax: 50, waitMs: 0 },
});

const held = { command_id: uuid, attempt, token: z.string().min(16).max(128) };

export const resultOutcomes = ["succeeded", "failed", "cancelled", "expired", "poison", "abandoned"] as const;

export const agentReport = defineReport({
  owner: "vm-ops",
  name: "vm-ops.agent.report.v1",
  report: "report",
  summary: "Progress renews leases and brings the desired state back; results are sent until acknowledged.",
  payload: z.object({
    session,
    items: z
      .array(
        z.discriminatedUnion("type", [
          z.object({ type: z.literal("progress"), ...held }),
          z.object({
            type: z.literal("result"),
            ...held,
            /** `abandoned`: provably never started. `expired`: ran longer than its timeout and was stopped. */
            outcome: z.enum(resultOutcomes),
            reason,
            effect,
            result: commandResult,
          }),
        ]),
      )
      .min(1)
      .max(itemsPerReportMax),
  }),
  reply: z.object({
    items: z.array(
      z.discriminatedUnion("outcome", [
        z.object({
          outcome: z.literal("renewed"),
          command_id: uuid,
          attempt,
          desired,
          lease_ms: durationMs,
          next_renew_ms: durationMs,
        }),
        /** The result is stored: `final`, again as before, after expiry, or as the orphan of a newer attempt. */
        z.object({
          outcome: z.literal("stored"),
          command_id: uuid,
          attempt,
          as: z.enum(["final", "duplicate", "late", "orphan"]),
        }),
        z.object({
          outcome: z.literal("refused"),
          command_id: uuid,
          attempt,
          code: z.literal("STALE_TOKEN"),
        }),
        z.object({
          outcome: z.literal("retry"),
          command_id: uuid,
          attempt,
          retry_after_ms: durationMs,
        }),
      ]),
    ),
  }),
  codes: ["AGENT_SUPERSEDED", "AGENT_QUARANTINED", "AGENT_REVOKED"],
  payloadBytesMax: 4 * 1024 * 1024,
  batch: { sizeMax: 50, waitMs: 0 },
});

export const agentOutput = defineReport({
  owner: "vm-ops",
  name: "vm-ops.agent.output.v1",
  report: "output",
  summary: "Chunks of output by offset; the answer says where to go on and when.",
  payload: z.object({
    session,
    chunks: z
      .array(
        z.object({
          ...held,
          stream: streamName,
          /** A jump past the last end is output that the agent has cut. */
          offset: z.number().int().min(0),
          data_base64: z.base64().max(Math.ceil(outputChunkBytesMax / 3) * 4),
          /** This stream ends with this chunk. */
          last: z.boolean(),
        }),
      )
      .min(1)
      .max(itemsPerReportMax),
  }),
  reply: z.object({
    items: z.array(
      z.object({
        command_id: uuid,
        attempt,
        stream: streamName,
        accepted: z.boolean(),
        next_offset: z.number().int().min(0),
      }),
    ),
    next_interval_ms: durationMs,
    paused: z.boolean(),
  }),
  codes: ["AGENT_SUPERSEDED", "AGENT_QUARANTINED", "AGENT_REVOKED"],
  payloadBytesMax: 5 * 1024 * 1024,
  batch: { sizeMax: 20, waitMs: 2 },
});

export const agentHeartbeat = defineReport({
  owner: "reliability",
  name: "reliability.agent.heartbeat.v1",
  report: "heartbeat",
  summary: "The agent lives: version, drivers, load, what it runs, its clock, the state of its journal.",
  payload: z.object({
    session,
    version: z.string().max(32),
    drivers: z.array(z.string().max(32)).max(16),
    vm_uuids: z.array(uuid).max(500),
    running: z.array(uuid).max(1_000),
    load_1m: z.number().min(0),
    /** The agent's wall clock, for its skew as a metric; nothing is decided by it. */
    clock_unix_ms: z.number().int(),
    journal: z.object({
      writable: z.boolean(),
      starts: z.number().int().min(0),
      /** Attempts that were started more than once: must be 0. */
      double_starts: z.number().int().min(0),
      unacknowledged_results: z.number().int().min(0),
    }),
    stopping: z.boolean(),
  }),
  reply: z.object({ next_heartbeat_ms: durationMs }),
  codes: ["AGENT_SUPERSEDED"],
  payloadBytesMax: 128 * 1024,
  batch: { sizeMax: 200, waitMs: 20 },
});

/** Reports by the key of their handler, per consuming queue. */
export const vmOpsReports = {
  hello: agentHello,
  claim: agentClaim,
  report: agentReport,
  output: agentOutput,
} as const;
export const reliabilityReports = { heartbeat: agentHeartbeat } as const;
