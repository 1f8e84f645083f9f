import { z } from "zod";

/** The side of a step: not yet done; or done, and nobody in the process knows. */
export const sides = ["before", "after"] as const;
export type Side = (typeof sides)[number];

/**
 * `kill`: the process kills itself there. `cut`: its connections to broker and database are destroyed there.
 * `stop`: it stops itself there, so that the test can kill something else, and goes on when it is told to.
 */
export const point = z.object({
  step: z.string(),
  /** The how-manieth occurrence since the plan was read. */
  nth: z.number().int().min(1),
  side: z.enum(sides),
  how: z.enum(["kill", "cut", "stop"]),
});
export type Point = z.infer<typeof point>;

/** What a process does: at whichever of its points comes first, and nothing at the others. */
export const plan = z.object({ id: z.string(), points: z.array(point) });
export type Plan = z.infer<typeof plan>;

/** What a process with the preload is told, as JSON in this variable. */
export const orderVariable = "CRASH_POINTS";
export const order = z.object({
  /** Every step is appended here, one line each: `step <words>`, `hit <id of the plan> <index of its point>`. */
  trace: z.string(),
  /** Read at start and whenever it has changed. */
  plan: z.string(),
  /** Steps on files count below this folder. */
  folder: z.string().nullable(),
  /** For the supervisors that an agent starts; each takes its plan away from this file. */
  supervisors: z.object({ trace: z.string(), plan: z.string(), folder: z.string() }).nullable(),
});
export type Order = z.infer<typeof order>;
