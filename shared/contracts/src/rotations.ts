import { z } from "zod";
import { actions } from "./actions.ts";
import { page } from "./commands.ts";
import { defineRequest } from "./define.ts";
import { plainText, timestamp, uuid } from "./ids.ts";
import { secretVersion } from "./secret-references.ts";
import { commandRequest, cursor, limit } from "./vm-ops.ts";

/** In JSON. It is kept with its binding, and listed with it. */
export const followUpBytesMax = 16 * 1024;
const { timeout_seconds } = commandRequest.shape;

const textsIn = (value: unknown): string[] => {
  if (typeof value === "string") return [value];
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => [key, ...textsIn(inner)]);
};

/** What a VM runs when a secret that it is bound to has another version: a reload. */
export const followUp = z
  .discriminatedUnion("action", [
    z.strictObject({ action: z.literal("exec"), params: actions.exec.params, timeout_seconds }),
    z.strictObject({ action: z.literal("script"), params: actions.script.params, timeout_seconds }),
  ])
  .refine(
    (command) => Buffer.byteLength(JSON.stringify(command)) <= followUpBytesMax,
    `must be at most ${followUpBytesMax} bytes`,
  )
  .refine(
    (command) => textsIn(command).every((text) => plainText.safeParse(text).success),
    "must not contain NUL or half of a surrogate pair",
  );
export type FollowUp = z.output<typeof followUp>;

/** The same as it is shown. */
export const followUpView = z.object({
  action: z.enum(["exec", "script"]),
  params: z.record(z.string(), z.unknown()),
  timeout_seconds: z.number().optional(),
});

/** How a rotation goes about follow-ups. */
export const rotationOptions = {
  follow_up: z.boolean().default(true).describe("Whether the follow-ups of the secret's bindings are run."),
  rollback: z
    .boolean()
    .default(true)
    .describe("Whether the version before is made current again where a follow-up fails."),
};

/** `rolled_back`: the version before is current again, and every VM that may have had the new one has been told. */
export const rotationStates = ["running", "rolling_back", "succeeded", "failed", "rolled_back"] as const;
export type RotationState = (typeof rotationStates)[number];
/** `superseded`: the secret got another version meanwhile, or was deleted. */
export const rotationReasons = ["follow_up_failed", "rollback_failed", "superseded"] as const;
export type RotationReason = (typeof rotationReasons)[number];
/** `skipped`: never sent. */
export const followUpStates = ["pending", "running", "succeeded", "failed", "skipped"] as const;
export type FollowUpState = (typeof followUpStates)[number];

export const rotationSummary = z.object({
  id: uuid,
  secret_id: uuid,
  state: z.enum(rotationStates),
  /** Why it did not succeed. */
  reason: z.enum(rotationReasons).nullable(),
  from_version: secretVersion,
  to_version: secretVersion,
  rollback: z.boolean(),
  requested_by: z.string(),
  started_at: timestamp,
  ended_at: timestamp.nullable(),
});
export type RotationSummary = z.infer<typeof rotationSummary>;

/** That a secret has another version, and what its VMs made of it. */
export const rotationView = z.object({
  ...rotationSummary.shape,
  /** Those of the way back come last. */
  follow_ups: z.array(
    z.object({
      binding_id: uuid,
      vm_uuid: uuid,
      /** The one that was current when it was sent. */
      version: secretVersion,
      command_id: uuid.nullable(),
      state: z.enum(followUpStates),
      /** Why it failed: the code that it was refused with, or the reason of its command. */
      code: z.string().nullable(),
    }),
  ),
});
export type RotationView = z.infer<typeof rotationView>;

export const rotationRequests = {
  listRotations: defineRequest({
    owner: "secrets",
    name: "secrets.rotation.list.v1",
    summary: "List the rotations of a secret that had follow-ups, newest first.",
    payload: z.object({ secret_id: uuid, limit, cursor: cursor.optional() }),
    reply: page(rotationSummary),
    codes: ["SECRET_NOT_FOUND", "CURSOR_INVALID"],
  }),
  getRotation: defineRequest({
    owner: "secrets",
    name: "secrets.rotation.get.v1",
    summary: "Read one rotation with its follow-ups.",
    payload: z.object({ secret_id: uuid, rotation_id: uuid }),
    reply: rotationView,
    codes: ["ROTATION_NOT_FOUND"],
  }),
} as const;
