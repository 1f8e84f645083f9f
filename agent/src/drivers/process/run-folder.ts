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
  /** Where this run's secrets are in memory. */
  secrets: "secrets.json",
} as const;

export const exitCodes = { noSpec: 65, handleExists: 73, cannotPrepare: 74 } as const;

/** Environment variable by which everything that belongs to a run is found again. */
export const markerName = "MUSTER_COMMAND_HANDLE";
/** Environment variable with the folder where a program finds its secrets as files. */
export const secretsDirName = "MUSTER_SECRETS_DIR";

/** What of a spec is secret: on no disk, and in no text of ours. */
export interface SpecSecrets {
  readonly env: Readonly<Record<string, string>>;
  readonly stdin?: string | undefined;
  readonly files: readonly { readonly path: string; readonly value: string }[];
  /** Of the run's own, in memory; made where there are files. */
  readonly folder: string;
}

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
  readonly secrets?: SpecSecrets;
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

function textsOf(value: unknown): Record<string, string> | undefined {
  const texts: Record<string, string> = {};
  for (const [name, text] of Object.entries(fieldsOf(value) ?? {})) {
    if (!isText(text)) return undefined;
    texts[name] = text;
  }
  return texts;
}

function secretsOf(value: unknown): SpecSecrets | undefined {
  const { env, stdin, files: listed, folder } = fieldsOf(value) ?? {};
  const environment = textsOf(env);
  if (environment === undefined || !Array.isArray(listed) || !isText(folder)) return undefined;
  const wanted: { path: string; value: string }[] = [];
  for (const one of listed) {
    const { path, value: text } = fieldsOf(one) ?? {};
    if (!isText(path) || !isText(text)) return undefined;
    wanted.push({ path, value: text });
  }
  return { env: environment, ...(isText(stdin) ? { stdin } : {}), files: wanted, folder };
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
  const secrets = fields["secrets"] === undefined ? undefined : secretsOf(fields["secrets"]);
  if (secrets === undefined && fields["secrets"] !== undefined) return undefined;
  if (!isText(handle) || !isText(marker) || !isText(program) || !isText(cwd)) return undefined;
  if (!Array.isArray(args) || !args.every(isText)) return undefined;
  const environment = textsOf(env);
  if (environment === undefined) return undefined;
  if (typeof timeoutMs !== "number" || typeof graceMs !== "number") return undefined;
  const { headBytes, ringBytes } = fieldsOf(limits) ?? {};
  return {
    ...{ handle, marker, program, args, env: environment, cwd, timeoutMs, graceMs },
    ...(isText(stdin) ? { stdin } : {}),
    ...(isText(script) ? { script } : {}),
    ...(secrets === undefined ? {} : { secrets }),
    limits: {
      headBytes: typeof headBytes === "number" ? headBytes : captureLimits.headBytes,
      ringBytes: typeof ringBytes === "number" ? ringBytes : captureLimits.ringBytes,
    },
  };
}
