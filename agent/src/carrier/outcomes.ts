import { commandResult } from "@muster/contracts/commands";
import { emptyResult, type Outcome } from "../drivers/driver.ts";

/** Provably never started. */
export function abandoned(why: string): Outcome {
  return {
    outcome: "abandoned",
    reason: "abandoned",
    effect: "none",
    result: { ...emptyResult, error: why },
  };
}

/** Somebody wanted it gone before it was started. */
export function cancelledBefore(): Outcome {
  return { outcome: "cancelled", reason: "cancelled_before_start", effect: "none", result: emptyResult };
}

export function poisonous(crashes: number): Outcome {
  const error = `refused: this agent died ${crashes} times while the command was starting or running`;
  return { outcome: "poison", reason: "poison", effect: "unknown", result: { ...emptyResult, error } };
}

/** A result that its contract does not allow would be refused for ever: its totals and data give way, the outcome stays. */
export function fitting(outcome: Outcome): Outcome {
  if (commandResult.safeParse(outcome.result).success) return outcome;
  const error = "the result did not fit its contract and was left out";
  return { ...outcome, result: { ...emptyResult, error } };
}

/** Ends that rest on the handle never starting: what keeps it from starting must be kept. */
export function provesNoStart(outcome: Pick<Outcome, "outcome">): boolean {
  return outcome.outcome === "abandoned" || outcome.outcome === "poison";
}
