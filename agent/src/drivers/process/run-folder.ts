import { captureLimits, type CaptureLimits, type Totals } from "./capture.ts";

/** What a run folder holds; `<home>/runs/<command_id>.<attempt>/`. */
export const files = {
  supervisor: "supervisor.json",
  exit: "exit.json",
  exitDraft: "exit.draft",
  stop: "stop",
  script: "script",
  stdin: "stdin",
  fenced: "fenced",
} as const;

export const exitCodes = { noSpec: 65, handleExists: 73, cannotPrepare: 74 } as const;

/** Environment variable by which everything that belongs to a run is found again. */
export const markerName = "MUSTER_COMMAND_HANDLE";

/** What the agent hands to a supervisor. Durations in milliseconds. */
export interface Spec {
  readonly handle: string;
  readonly marker: string;
  readonly program: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly stdin?: string;
  readonly script?: string;
  readonly timeoutMs: number;
  readonly graceMs: number;
  readonly limits: CaptureLimits;
}

/** `cancel`: the agent asked; `signal`: someone else did. */
export type Stopped = "timeout" | "cancel" | "signal" | null;

export interface Exit {
  readonly code: number | null;
  readonly signal: string | null;
  readonly runMs: number | null;
  readonly stopped: Stopped;
  /** The program could not be started: nothing has happened. */
  readonly spawnError: string | null;
  readonly output: { readonly stdout: Totals; readonly stderr: Totals };
}

function isText(value: unknown): value is string {
  return typeof value === "string";
}

function fieldsOf(value: unknown): Record<string, unknown> | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
  return Object.fromEntries(Object.entries(value));
}

/** Reads a spec without any dependency; undefined when it is cut or is not one. */
export function parseSpec(text: string): Spec | undefined {
  let fields: Record<string, unknown> | undefined;
  try {
    fields = fieldsOf(JSON.parse(text));
  } catch {
    return undefined;
  }
  if (fields === undefined) return undefined;
  const { handle, marker, program, args, env, cwd, stdin, script, timeoutMs, graceMs, limits } = fields;
  if (!isText(handle) || !isText(marker) || !isText(program) || !isText(cwd)) return undefined;
  if (!Array.isArray(args) || !args.every(isText)) return undefined;
  const environment: Record<string, string> = {};
  for (const [name, value] of Object.entries(fieldsOf(env) ?? {})) {
    if (!isText(value)) return undefined;
    environment[name] = value;
  }
  if (typeof timeoutMs !== "number" || typeof graceMs !== "number") return undefined;
  const { headBytes, ringBytes } = fieldsOf(limits) ?? {};
  return {
    ...{ handle, marker, program, args, env: environment, cwd, timeoutMs, graceMs },
    ...(isText(stdin) ? { stdin } : {}),
    ...(isText(script) ? { script } : {}),
    limits: {
      headBytes: typeof headBytes === "number" ? headBytes : captureLimits.headBytes,
      ringBytes: typeof ringBytes === "number" ? ringBytes : captureLimits.ringBytes,
    },
  };
}
