import { z } from "zod";
import { actionName } from "@muster/contracts/actions";
import { commandResult, effect, reason } from "@muster/contracts/commands";
import { resultOutcomes } from "@muster/contracts/agents";

/**
 * How far an attempt got, in the order of its life.
 * `received` (with the nonce of its claim) → `starting` (handle, token) → `started` → `finished` (result) → `acked`;
 * `forgotten`: the claim was denied; `orphaned`: the result was refused for good and is kept for people.
 */
export const attemptStates = [
  "received",
  "starting",
  "started",
  "finished",
  "acked",
  "forgotten",
  "orphaned",
] as const;
export type AttemptState = (typeof attemptStates)[number];

export const storedOutcome = z.object({
  outcome: z.enum(resultOutcomes),
  reason,
  effect,
  result: commandResult,
});

const json = <T extends z.ZodType>(schema: T) =>
  z
    .string()
    .nullable()
    .transform((text): unknown => (text === null ? null : JSON.parse(text)))
    .pipe(schema.nullable());

/** One attempt as the journal holds it. */
export const attemptRow = z.object({
  command_id: z.string(),
  attempt: z.number().int(),
  state: z.enum(attemptStates),
  vm_uuid: z.string(),
  epoch: z.number().int(),
  lane: z.enum(["work", "control"]),
  action: actionName,
  correlation_id: z.string(),
  nonce: z.string().nullable(),
  token: z.string().nullable(),
  driver: z.string().nullable(),
  note: json(z.record(z.string(), z.string())),
  outcome: json(storedOutcome),
  output_done: z.number().transform((flag) => flag === 1),
  starts: z.number().int(),
  crashes: z.number().int(),
});
export type AttemptRow = z.infer<typeof attemptRow>;

export interface AttemptKey {
  readonly commandId: string;
  readonly attempt: number;
}

/** What a change may set besides the state. */
export type AttemptFields = Partial<
  Pick<AttemptRow, "nonce" | "token" | "driver" | "note" | "outcome" | "output_done" | "crashes">
>;

export type Change =
  | {
      readonly kind: "received";
      readonly key: AttemptKey;
      readonly bell: Pick<AttemptRow, "vm_uuid" | "epoch" | "lane" | "action" | "correlation_id">;
      /** Of every claim of this attempt. */
      readonly nonce: string;
    }
  | {
      readonly kind: Exclude<AttemptState, "received">;
      readonly key: AttemptKey;
      readonly fields?: AttemptFields;
    }
  /** Changes no state: a crash that was counted, output that is all stored. */
  | { readonly kind: "noted"; readonly key: AttemptKey; readonly fields: AttemptFields }
  | { readonly kind: "session"; readonly generation: number }
  | { readonly kind: "stopped" };

export const handleOf = (key: AttemptKey): string => `${key.commandId}.${key.attempt}`;
