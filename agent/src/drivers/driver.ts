import type { ActionName } from "@muster/contracts/actions";
import type { CommandResult, Effect, Reason, StreamName } from "@muster/contracts/commands";
import type { resultOutcomes } from "@muster/contracts/agents";
import type { ResolvedSecrets } from "@muster/contracts/secret-reports";

export type ResultOutcome = (typeof resultOutcomes)[number];

/** How a piece of work ended, as its driver saw it. */
export interface Outcome {
  readonly outcome: ResultOutcome;
  readonly reason: Reason;
  readonly effect: Effect;
  readonly result: CommandResult;
}

/** One granted attempt. Durations in milliseconds. */
export interface Work {
  /** `<command_id>.<attempt>`: names the run before it starts; one handle starts at most once. */
  readonly handle: string;
  readonly commandId: string;
  readonly action: ActionName;
  readonly params: Readonly<Record<string, unknown>>;
  readonly timeoutMs: number;
  /** Of every reference that the params name; with those alone. In memory and nowhere else. */
  readonly secrets?: ResolvedSecrets;
}

/** Captured output, readable while the work runs and after its end. */
export interface OutputSource {
  /** The next piece at or after `offset`, undefined while there is nothing new; a later offset than asked for is a cut. */
  read(
    stream: StreamName,
    offset: number,
    bytesMax: number,
  ): Promise<{ offset: number; data: Buffer; last: boolean } | undefined>;
}

export interface Running {
  /** Settles once; never rejects. */
  readonly outcome: Promise<Outcome>;
  /** Asks the work to end: TERM, grace, KILL where there are processes. Idempotent; the outcome says what came of it. */
  stop(): void;
  /** Follows it no longer, and leaves it running: the outcome then never settles. */
  leave(): void;
  readonly output: OutputSource | undefined;
}

/** What became of a handle whose agent died. `not_started` is proof, not absence of news. */
export type Reattached =
  | { readonly state: "running"; readonly running: Running }
  | { readonly state: "ended"; readonly outcome: Outcome; readonly output: OutputSource | undefined }
  | { readonly state: "not_started" };

export interface DriverSurroundings {
  readonly home: string;
  readonly stopGraceMs: number;
  /** For secrets as files, on a file system in memory; by default `/dev/shm/muster-<uid>`. */
  readonly secretsDir?: string | undefined;
}

/** How an agent does actions. A new driver is one folder and one line in `registry.ts`. */
export interface Driver {
  readonly name: string;
  readonly actions: readonly ActionName[];
  /** Whether it can bring secrets to what it runs. */
  readonly takesSecrets: boolean;
  /** What `reattach` will need besides the handle; journaled before `start`. No secrets, at most 4 KiB. */
  note(work: Work): Readonly<Record<string, string>>;
  /** Throws `StartRefused` when nothing was started, `AlreadyStarted` when the handle was used before. */
  start(work: Work): Promise<Running>;
  reattach(handle: string, action: ActionName, note: Readonly<Record<string, string>>): Promise<Reattached>;
  /** Output of a run that has ended, for as long as it is kept. */
  output(handle: string): OutputSource | undefined;
  /** Lets go of what is kept of a handle whose command is over and reported. */
  forget(handle: string): Promise<void>;
  /** Facts for `probe`: state of the driver itself. */
  probe(): Promise<Record<string, unknown>>;
}

/** Nothing was started and nothing has happened: effect none. */
export class StartRefused extends Error {
  override readonly name = "StartRefused";
  readonly reason: Reason;

  constructor(reason: Reason, message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }
}

export const emptyResult: CommandResult = {
  exit_code: null,
  signal: null,
  run_ms: null,
  error: null,
  output: null,
  data: null,
};

export function failed(reason: Reason, effect: Effect, error: string): Outcome {
  return { outcome: "failed", reason, effect, result: { ...emptyResult, error: error.slice(0, 2_000) } };
}
