import { z } from "zod";
import {
  commandState,
  effect,
  outputChunk,
  outputPage,
  reason,
  streamName,
  streamTotals,
} from "./commands.ts";

/**
 * A place in a command's output across its attempts: `<attempt>.<stdout>.<stderr>`, bytes read of each stream.
 * Given as `id:` of every event and as the cursor of every page; opaque to callers.
 */
export const outputPosition = z
  .string()
  .regex(/^[0-9]{1,9}\.[0-9]{1,15}\.[0-9]{1,15}$/, "must be an id or cursor that this command's output gave");

export const followedPage = outputPage.extend({ cursor: outputPosition });

/** What `GET …/{id}/output` sends as an event stream, by event name; `data:` is one line of JSON. */
export const outputEvents = {
  /** First, and at each change. Another attempt starts its output at 0. */
  state: z.object({ state: commandState, attempt: z.number().int(), reason }),
  output: outputChunk.extend({
    attempt: z.number().int(),
    /** The same bytes as text, where they are UTF-8 by themselves. */
    text: z.string().optional(),
  }),
  /** Bytes `from` up to before `to` were cut: only the first and last of much output is kept. */
  gap: z.object({
    attempt: z.number().int(),
    stream: streamName,
    from: z.number().int().min(0),
    to: z.number().int().min(0),
  }),
  /** Last: the command has ended. */
  end: z.object({
    state: commandState,
    attempt: z.number().int(),
    reason,
    effect,
    exit_code: z.number().int().nullable(),
    signal: z.string().nullable(),
    run_ms: z.number().int().nullable(),
    error: z.string().nullable(),
    /** False: the command has ended, but the rest of its output did not come in time. */
    output_complete: z.boolean(),
    totals: z.object({ stdout: streamTotals, stderr: streamTotals }).nullable(),
  }),
} as const;
export type OutputEventName = keyof typeof outputEvents;
export type OutputEvent = {
  [K in OutputEventName]: { readonly event: K; readonly data: z.infer<(typeof outputEvents)[K]> };
}[OutputEventName];
