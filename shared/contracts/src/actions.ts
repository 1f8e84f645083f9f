import { z } from "zod";
import { sha256 } from "./ids.ts";
import { isNoBadReference, secretReference, secretReferencesMax } from "./secret-references.ts";

/** May a command of this action run again after a start whose end nobody saw? */
export type RetrySafety = "safe" | "verify" | "never";

/** Commands of the control lane pass those that wait or run. */
export type Lane = "work" | "control";

export interface ActionDefinition<P extends z.ZodType = z.ZodType> {
  readonly summary: string;
  readonly lane: Lane;
  readonly retrySafety: RetrySafety;
  readonly timeoutMsDefault: number;
  readonly expiresInMsDefault: number;
  readonly params: P;
}

export const scriptBytesMax = 1024 * 1024;
export const fileBytesMax = 512 * 1024;

const noNul = (text: string): boolean => !text.includes("\0");
const argument = z
  .string()
  .max(128 * 1024)
  .refine(noNul, "must not contain NUL");
const reference = "must be text, or secret://name with #field and @version where they are needed";
const path = z
  .string()
  .min(1)
  .max(4_096)
  .startsWith("/", "must be an absolute path")
  .refine(noNul, "must not contain NUL");
const environment = z
  .record(
    z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/, "must be a name of A-Z, a-z, 0-9 and _"),
    argument.refine(isNoBadReference, reference),
  )
  .refine((env) => Object.keys(env).length <= 256, "at most 256 variables");
const surroundings = {
  env: environment.optional(),
  cwd: path.optional(),
  stdin: z.string().max(scriptBytesMax).refine(isNoBadReference, reference).optional(),
  /** Beside those that `env` and `stdin` name in place of a value; each reaches the program as its binding says. */
  secrets: z.array(secretReference).max(secretReferencesMax).optional(),
};

function action<P extends z.ZodType>(definition: ActionDefinition<P>): ActionDefinition<P> {
  return Object.freeze(definition);
}

const hourMs = 3_600_000;

/** What a command can do, with the defaults of each action. Durations in milliseconds. */
export const actions = {
  exec: action({
    summary: "Run a program with arguments.",
    lane: "work",
    retrySafety: "never",
    timeoutMsDefault: hourMs,
    expiresInMsDefault: hourMs,
    params: z.strictObject({
      program: z.string().min(1).max(4_096).refine(noNul, "must not contain NUL"),
      args: z.array(argument).max(1_024).default([]),
      ...surroundings,
    }),
  }),
  script: action({
    summary: "Run a text with an interpreter.",
    lane: "work",
    retrySafety: "never",
    timeoutMsDefault: hourMs,
    expiresInMsDefault: hourMs,
    params: z.strictObject({
      interpreter: z.string().min(1).max(4_096).refine(noNul, "must not contain NUL").default("sh"),
      text: z.string().min(1).max(scriptBytesMax),
      args: z.array(argument).max(1_024).default([]),
      ...surroundings,
    }),
  }),
  "file.put": action({
    summary: "Write a small file, whole or not at all.",
    lane: "work",
    retrySafety: "safe",
    timeoutMsDefault: 60_000,
    expiresInMsDefault: hourMs,
    params: z.strictObject({
      path,
      content_base64: z.base64().max(Math.ceil(fileBytesMax / 3) * 4),
      mode: z
        .string()
        .regex(/^0?[0-7]{3}$/, "must be octal, such as 0644")
        .default("0644"),
      /** Of the content; a difference fails the command before anything is written. */
      sha256: sha256.optional(),
      create_parents: z.boolean().default(false),
    }),
  }),
  "file.get": action({
    summary: "Read a small file.",
    lane: "work",
    retrySafety: "safe",
    timeoutMsDefault: 60_000,
    expiresInMsDefault: hourMs,
    params: z.strictObject({
      path,
      max_bytes: z.number().int().min(1).max(fileBytesMax).default(fileBytesMax),
    }),
  }),
  probe: action({
    summary: "Facts about the machine: operating system, CPU, memory, disk, driver state.",
    lane: "control",
    retrySafety: "safe",
    timeoutMsDefault: 60_000,
    expiresInMsDefault: 600_000,
    params: z.strictObject({}),
  }),
  ping: action({
    summary: "Answer at once.",
    lane: "control",
    retrySafety: "safe",
    timeoutMsDefault: 60_000,
    expiresInMsDefault: 600_000,
    params: z.strictObject({}),
  }),
} as const satisfies Record<string, ActionDefinition>;

export type ActionName = keyof typeof actions;
export const actionNames = Object.keys(actions) as [ActionName, ...ActionName[]];
export const actionName = z.enum(actionNames);
export type ActionParams<A extends ActionName> = z.output<(typeof actions)[A]["params"]>;

/** Bounds of what a caller may ask for, in milliseconds. */
export const timeoutBoundsMs = { min: 1_000, max: 7 * 24 * hourMs } as const;
export const expiresInBoundsMs = { min: 1_000, max: 30 * 24 * hourMs } as const;
