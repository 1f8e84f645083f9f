import { errorCodes } from "@muster/contracts/errors";
import type { ErrorCode } from "@muster/contracts/errors";
import type { FollowUpState, RotationReason } from "@muster/contracts/rotations";
import type { Effect } from "@muster/contracts/commands";

export interface Judged {
  readonly state: "running" | "rolling_back";
  readonly rollback: boolean;
  /** The secret has a version that is not this rotation's, or is gone. */
  readonly superseded: boolean;
  /** Those of the round: of the way there, or of the way back. */
  readonly followUps: readonly {
    readonly bindingId: string;
    readonly state: FollowUpState;
    /** Of its command, as far as it was heard. */
    readonly effect: Effect | null;
  }[];
}

export type Verdict =
  | { readonly kind: "wait" }
  /** What is not sent yet must not be any more; then judge again. */
  | { readonly kind: "skip" }
  /** The version before is made current, and these are told once more. */
  | { readonly kind: "roll_back"; readonly resend: readonly string[] }
  | {
      readonly kind: "end";
      readonly state: "succeeded" | "failed" | "rolled_back";
      readonly reason: RotationReason | null;
    };

const ended = (
  state: "succeeded" | "failed" | "rolled_back",
  reason: RotationReason | null = null,
): Verdict => ({ kind: "end", state, reason });

/** What becomes of a rotation, by its follow-ups. */
export function judge({ state, rollback, superseded, followUps }: Judged): Verdict {
  const some = (...states: FollowUpState[]) => followUps.some((one) => states.includes(one.state));
  const doomed = superseded || (state === "running" && rollback && some("failed"));
  if (some("pending")) return { kind: doomed ? "skip" : "wait" };
  if (some("running")) return { kind: "wait" };
  const allWell = !some("failed", "skipped");
  if (allWell) return state === "running" ? ended("succeeded") : ended("rolled_back", "follow_up_failed");
  if (superseded) return ended("failed", "superseded");
  if (state === "rolling_back") return ended("failed", "rollback_failed");
  if (!rollback) return ended("failed", "follow_up_failed");
  return { kind: "roll_back", resend: followUps.filter(mayHaveRun).map(({ bindingId }) => bindingId) };
}

/** Whoever may have begun to use the new version has to hear of the old one: also where it failed at it. */
const mayHaveRun = ({ state, effect }: Judged["followUps"][number]): boolean =>
  state === "succeeded" || (effect !== null && effect !== "none");

/** After these the command is not there, nor was it before: a key that is known is answered first. */
const refusals: readonly ErrorCode[] = [
  ...(["VM_NOT_FOUND", "VM_RETIRED", "VM_QUEUE_FULL", "ACTION_NOT_SUPPORTED"] as const),
  ...(["IDEMPOTENCY_KEY_REUSED", "VALIDATION_FAILED"] as const),
];
/** Whether vm-ops has certainly not accepted what it answered so. */
export const isRefusal = (code: ErrorCode): boolean => refusals.includes(code);

const waitMaxMs = 60_000;
const patienceMs = 3_600_000;

/** When to send again what could not be sent; undefined when it is given up. `tries` counts the one that failed. */
export function sendAgainAfterMs(o: {
  readonly code: ErrorCode;
  readonly tries: number;
  readonly ageMs: number;
}): number | undefined {
  const isPassing = o.code === "INTERNAL" || errorCodes[o.code].retriable;
  if (!isPassing || o.ageMs >= patienceMs) return undefined;
  return Math.min(waitMaxMs, 1_000 * 2 ** Math.min(20, o.tries - 1));
}
