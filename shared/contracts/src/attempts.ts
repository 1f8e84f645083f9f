import { z } from "zod";
import { defineRequest } from "./define.ts";
import { tenantId, uuid } from "./ids.ts";

export const attemptRequests = {
  getAttempt: defineRequest({
    owner: "vm-ops",
    name: "vm-ops.attempt.get.v1",
    callers: ["secrets"],
    summary: "What an attempt that an agent runs may know: asked before the agent is given secrets.",
    payload: z.object({
      tenant_id: tenantId,
      agent_id: uuid,
      command_id: uuid,
      attempt: z.number().int().min(1),
      /** The fencing token of the grant. */
      token: z.string().min(16).max(128),
    }),
    reply: z.object({
      vm_uuid: uuid,
      vm_labels: z.record(z.string(), z.string()),
      project_id: z.string().nullable(),
      requested_by: z.string(),
      /** Those that the command's params name. */
      references: z.array(z.string()),
      /** Until its time is up, from now. */
      left_ms: z.number().int().min(1),
    }),
    codes: ["ATTEMPT_NOT_RUNNING"],
    identity: "none",
  }),
} as const;
