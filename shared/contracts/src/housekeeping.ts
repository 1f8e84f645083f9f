import { z } from "zod";
import { defineRequest } from "./define.ts";

/** What reliability has vm-ops do besides sweeps. */
export const housekeepingRequests = {
  pruneVmOps: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.storage.prune.v1",
    callers: ["reliability"],
    summary: "Remove old inbox rows.",
    payload: z.object({
      older_than_ms: z.number().int().min(60_000),
      limit: z.number().int().min(1).max(50_000),
    }),
    reply: z.object({ removed: z.number().int() }),
    codes: [],
    timeoutMs: 60_000,
    identity: "none",
  }),
  auditVmOps: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.commands.audit.v1",
    callers: ["reliability"],
    summary: "Counts that must be 0: lost commands, double starts, stale outbox rows.",
    payload: z.object({}),
    reply: z.object({
      /** Accepted, not terminal, and neither waiting for anything nor findable by a sweep. */
      lost_commands: z.number().int().min(0),
      /** Attempts with more than one grant that was started. */
      double_starts: z.number().int().min(0),
      /** Outbox rows older than a minute. */
      outbox_stale: z.number().int().min(0),
    }),
    codes: [],
    timeoutMs: 60_000,
    identity: "none",
  }),
} as const;
