import { isTerminal } from "@muster/contracts/commands";
import type { CommandState, Effect, Reason } from "@muster/contracts/commands";
import { join } from "./effect.ts";

/**
 * The life of a command: every pair of state and event, and what becomes of it. Nothing else decides a transition.
 *
 * `requested` is before the row exists. An event that does not fit is refused and changes nothing; a pair that is
 * missing here does not compile. Two pairs of columns are apart on purpose: `state` is what was observed, `desired`
 * what was asked for (a running command is cancelled by its agent, not by us); `effect` is what this attempt did,
 * `effectCarried` what attempts before it may have left behind.
 *
 * Terminal states are final with one exception: what a sweep had to judge without a result (lease lost, forced
 * timeout, forced cancel: effect unknown) is provisional, and the result of that very claim corrects it.
 */
export type LifeState = CommandState | "requested";

export const machineEvents = [
  "accepted",
  "gate_refused",
  "approval_required",
  "approved",
  "approval_refused",
  "approval_expired",
  "doorbell_confirmed",
  "claim_granted",
  "requeue",
  "requeues_exhausted",
  "doorbell_unreadable",
  "delivery_timeout",
  "target_gone",
  "cancel",
  "execution_overdue",
  "execution_timeout",
  "cancel_unconfirmed",
  "lease_lost",
  "result_succeeded",
  "result_failed",
  "result_cancelled",
  "result_expired",
  "result_poison",
  "result_abandoned",
  "abandons_exhausted",
  "replay",
] as const;
export type MachineEvent = (typeof machineEvents)[number];

/** Why an event is refused. */
export const refusals = {
  not_accepted: "there is no such command yet",
  accepted_before: "it was accepted before",
  needs_approval: "it waits for an approval",
  not_started: "no claim was granted for this attempt",
  started: "a claim was granted: only its result, its lease or a cancel can end it",
  already: "it is so already",
  ended: "it has ended",
  not_dead_lettered: "only a dead-lettered command can be put back",
} as const;
export type Refusal = keyof typeof refusals;

/**
 * `carried`: what earlier attempts may have left, `none` for a first attempt. `reported`: what the result says,
 * joined with what was carried. `unknown`: nobody can say. `kept`: as it was.
 */
type EffectRule = "carried" | "reported" | "unknown" | "kept";

/** `wanted`: no cancel was asked for yet. `provisional`: judged by a sweep without a result, effect unknown. */
type Guard = "wanted" | "provisional";

export interface Move {
  readonly to: CommandState;
  /** `given`: the event brings it. */
  readonly reason: Reason | "given";
  readonly effect: EffectRule;
  readonly attempt?: "next";
  readonly requeues?: "plus_one" | "zero";
  /** A state that is entered and left in the same instant, and written to the history. */
  readonly through?: "dispatched";
  readonly desired?: "cancel" | "run";
  readonly late?: true;
  readonly guard?: Guard;
  /** When the guard does not hold. */
  readonly otherwise?: Refusal;
}
export type Cell = Move | { readonly refuse: Refusal };

const refuse = (refusal: Refusal): Cell => ({ refuse: refusal });
const unborn = refuse("not_accepted");
const unapproved = refuse("needs_approval");
const unstarted = refuse("not_started");
const started = refuse("started");
const already = refuse("already");
const over = refuse("ended");

type Terminal = "denied" | "succeeded" | "failed" | "expired" | "cancelled" | "dead_lettered";
type Row = Readonly<Record<LifeState, Cell>>;

const ended: Readonly<Record<Terminal, Cell>> = {
  denied: over,
  succeeded: over,
  failed: over,
  expired: over,
  cancelled: over,
  dead_lettered: over,
};

/** An event that only a request that is not yet a row can have. */
const atBirth = (move: Move): Row => ({
  requested: move,
  awaiting_approval: refuse("accepted_before"),
  queued: refuse("accepted_before"),
  dispatched: refuse("accepted_before"),
  running: refuse("accepted_before"),
  ...ended,
});

const ofApproval = (move: Move): Row => ({
  requested: unborn,
  awaiting_approval: move,
  queued: already,
  dispatched: already,
  running: started,
  ...ended,
});

/** Something that can happen to a command in its VM's queue. */
const ofDelivery = (move: Move): Row => ({
  requested: unborn,
  awaiting_approval: unapproved,
  queued: move,
  dispatched: move,
  running: started,
  ...ended,
});

/** A result of the current claim; `late` it corrects what was judged without it. */
const ofResult = (move: Move, late: Omit<Move, "late" | "guard" | "otherwise">): Row => {
  const correction: Move = { ...late, late: true, guard: "provisional", otherwise: "ended" };
  return {
    requested: unborn,
    awaiting_approval: unapproved,
    queued: unstarted,
    dispatched: unstarted,
    running: move,
    ...ended,
    expired: correction,
    cancelled: correction,
  };
};

const ofRun = (move: Move): Row => ({
  requested: unborn,
  awaiting_approval: unapproved,
  queued: unstarted,
  dispatched: unstarted,
  running: move,
  ...ended,
});

const reported = (to: CommandState, reason: Reason | "given"): Move => ({ to, reason, effect: "reported" });
const stop = (reason: Reason): Move => ({
  to: "running",
  reason,
  effect: "kept",
  desired: "cancel",
  guard: "wanted",
  otherwise: "already",
});
const unheard = (to: CommandState, reason: Reason): Move => ({ to, reason, effect: "carried" });

/** Nobody has claimed it, so a cancel takes effect at once. */
const dropped: Move = { ...unheard("cancelled", "cancelled_before_start"), desired: "cancel" };

export const machine: Readonly<Record<MachineEvent, Row>> = {
  accepted: atBirth({ to: "queued", reason: "accepted", effect: "carried" }),
  approval_required: atBirth({ to: "awaiting_approval", reason: "approval_needed", effect: "carried" }),
  gate_refused: {
    requested: unheard("denied", "gate_refused"),
    awaiting_approval: unheard("denied", "gate_refused"),
    queued: unheard("denied", "gate_refused"),
    dispatched: unheard("denied", "gate_refused"),
    running: started,
    ...ended,
  },
  approved: ofApproval({ to: "queued", reason: "approved", effect: "carried" }),
  approval_refused: ofApproval(unheard("denied", "approval_refused")),
  approval_expired: ofApproval(unheard("expired", "approval_expired")),
  doorbell_confirmed: {
    requested: unborn,
    awaiting_approval: unapproved,
    queued: { to: "dispatched", reason: "doorbell_confirmed", effect: "kept" },
    dispatched: already,
    running: already,
    ...ended,
  },
  claim_granted: {
    requested: unborn,
    awaiting_approval: unapproved,
    // The doorbell was heard before its confirm was written down: both steps are recorded.
    queued: { to: "running", through: "dispatched", reason: "claimed", effect: "unknown" },
    dispatched: { to: "running", reason: "claimed", effect: "unknown" },
    running: already,
    ...ended,
  },
  requeue: ofDelivery({
    to: "queued",
    reason: "given",
    effect: "carried",
    attempt: "next",
    requeues: "plus_one",
  }),
  requeues_exhausted: ofDelivery(unheard("dead_lettered", "dispatch_requeues_exhausted")),
  doorbell_unreadable: ofDelivery(unheard("dead_lettered", "doorbell_unreadable")),
  delivery_timeout: ofDelivery(unheard("expired", "delivery_timeout")),
  target_gone: {
    requested: unborn,
    awaiting_approval: unheard("expired", "target_gone"),
    queued: unheard("expired", "target_gone"),
    dispatched: unheard("expired", "target_gone"),
    running: stop("target_gone"),
    ...ended,
  },
  cancel: {
    requested: unborn,
    awaiting_approval: dropped,
    queued: dropped,
    dispatched: dropped,
    running: stop("cancel_requested"),
    ...ended,
  },
  execution_overdue: ofRun(stop("execution_timeout")),
  execution_timeout: ofRun({ to: "expired", reason: "execution_timeout", effect: "unknown" }),
  cancel_unconfirmed: ofRun({ to: "cancelled", reason: "given", effect: "unknown" }),
  lease_lost: ofRun({ to: "expired", reason: "lease_lost", effect: "unknown" }),
  result_succeeded: ofResult(reported("succeeded", "completed"), reported("succeeded", "completed")),
  result_failed: ofResult(reported("failed", "given"), reported("failed", "given")),
  result_cancelled: ofResult(reported("cancelled", "given"), reported("cancelled", "given")),
  result_expired: ofResult(
    reported("expired", "execution_timeout"),
    reported("expired", "execution_timeout"),
  ),
  result_poison: ofResult(reported("dead_lettered", "poison"), reported("dead_lettered", "poison")),
  // Provably never started: the next attempt costs no requeue. Too late for one, it still tells the effect.
  result_abandoned: ofResult(
    { to: "queued", reason: "abandoned", effect: "carried", attempt: "next", desired: "run" },
    { to: "expired", reason: "abandoned", effect: "carried" },
  ),
  abandons_exhausted: ofRun(unheard("dead_lettered", "abandoned")),
  replay: {
    requested: unborn,
    awaiting_approval: refuse("not_dead_lettered"),
    queued: refuse("not_dead_lettered"),
    dispatched: refuse("not_dead_lettered"),
    running: refuse("not_dead_lettered"),
    ...ended,
    dead_lettered: {
      to: "queued",
      reason: "replayed",
      effect: "kept",
      attempt: "next",
      requeues: "zero",
      desired: "run",
    },
  },
};

/** What the table looks at. */
export interface Life {
  readonly state: LifeState;
  readonly attempt: number;
  readonly requeues: number;
  readonly desired: "run" | "cancel";
  readonly reason: Reason;
  readonly effect: Effect;
  readonly effectCarried: Effect;
  readonly late: boolean;
  /** A result of the current attempt is stored. */
  readonly resultStored: boolean;
}

export interface Happening {
  readonly event: MachineEvent;
  /** For rows that take it from the event. */
  readonly reason?: Reason;
  readonly effect?: Effect;
}

export interface Transition extends Life {
  readonly state: CommandState;
  readonly from: LifeState;
  readonly through: "dispatched" | null;
  readonly rule: MachineEvent;
}

export type Decision =
  | { readonly kind: "moved"; readonly life: Transition }
  | { readonly kind: "refused"; readonly refusal: Refusal };

/** What becomes of a command to which this happens. */
export function decide(life: Life, happening: Happening): Decision {
  const cell = machine[happening.event][life.state];
  if ("refuse" in cell) return { kind: "refused", refusal: cell.refuse };
  if (cell.guard !== undefined && !holds(cell.guard, life)) {
    return { kind: "refused", refusal: cell.otherwise ?? "already" };
  }
  const restart = cell.attempt === "next";
  const effect = effectOf(cell.effect, life, happening);
  return {
    kind: "moved",
    life: {
      from: life.state,
      state: cell.to,
      through: cell.through ?? null,
      rule: happening.event,
      attempt: life.attempt + (restart ? 1 : 0),
      requeues: cell.requeues === "zero" ? 0 : life.requeues + (cell.requeues === "plus_one" ? 1 : 0),
      desired: restart ? "run" : (cell.desired ?? life.desired),
      reason: cell.reason === "given" ? (happening.reason ?? life.reason) : cell.reason,
      effect,
      effectCarried: restart ? effect : life.effectCarried,
      late: restart ? false : cell.late === true || life.late,
      resultStored: restart ? false : happening.event.startsWith("result_") || life.resultStored,
    },
  };
}

function holds(guard: Guard, life: Life): boolean {
  if (guard === "wanted") return life.desired === "run";
  return !life.resultStored && life.effect === "unknown";
}

function effectOf(rule: EffectRule, life: Life, happening: Happening): Effect {
  switch (rule) {
    case "kept":
      return life.effect;
    case "carried":
      return life.effectCarried;
    case "unknown":
      return "unknown";
    case "reported":
      return join(life.effectCarried, happening.effect ?? "unknown");
  }
}

/** Where a command goes from here without any help, or null when it has ended. */
export const isOver = (state: LifeState): boolean => state !== "requested" && isTerminal(state);
