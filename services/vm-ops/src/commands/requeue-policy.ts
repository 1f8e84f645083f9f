import type { CommandState, Reason } from "@muster/contracts/commands";
import { isTerminal } from "@muster/contracts/commands";

/** Who found that a doorbell led to no claim: our sweep, or the broker that gave the message up. */
export type Finding = { readonly hand: "sweep" } | { readonly hand: "broker"; readonly brokerReason: string };

export interface Stale {
  readonly state: CommandState;
  readonly attempt: number;
  /** The attempt that the doorbell rang for. */
  readonly attemptOfDoorbell: number;
  readonly requeues: number;
  readonly requeuesMax: number;
  /** A claim of this attempt is on record. */
  readonly claimRecorded: boolean;
}

export type RequeueVerdict =
  | { readonly kind: "requeue"; readonly reason: Reason }
  | { readonly kind: "dead_letter"; readonly event: "requeues_exhausted" | "doorbell_unreadable" }
  | { readonly kind: "ignore"; readonly why: "ended" | "superseded" | "claimed" | "not_in_queue" };

/**
 * What becomes of a command whose doorbell led to no claim: one policy for both hands. It costs one requeue, and
 * when those are used up the command is dead-lettered. What an agent could not read is dead-lettered at once:
 * another copy would read no better. The broker hand never sees `rejected` for anything else, since agents reject
 * only what they cannot parse, and what a stranger rang names no command.
 */
export function requeuePolicy(stale: Stale, finding: Finding): RequeueVerdict {
  if (isTerminal(stale.state)) return { kind: "ignore", why: "ended" };
  if (stale.attemptOfDoorbell !== stale.attempt) return { kind: "ignore", why: "superseded" };
  if (stale.state === "running" || stale.claimRecorded) return { kind: "ignore", why: "claimed" };
  if (stale.state === "awaiting_approval") return { kind: "ignore", why: "not_in_queue" };
  // Not confirmed yet is the relay's business, unless the broker itself says that it had the message.
  if (stale.state === "queued" && finding.hand === "sweep") return { kind: "ignore", why: "not_in_queue" };
  if (finding.hand === "broker" && finding.brokerReason === "rejected") {
    return { kind: "dead_letter", event: "doorbell_unreadable" };
  }
  if (stale.requeues >= stale.requeuesMax) return { kind: "dead_letter", event: "requeues_exhausted" };
  return { kind: "requeue", reason: finding.hand === "sweep" ? "unclaimed" : "broker_gave_up" };
}
