import type { Outcome } from "../driver.ts";
import { emptyResult, failed } from "../driver.ts";
import type { Exit } from "./run-folder.ts";

/** What an exit record says about a command. A program that was cut short leaves an unknown effect; it is never guessed. */
export function outcomeOf(exit: Exit, cancelAsked: boolean): Outcome {
  if (exit.spawnError !== null) return failed("start_failed", "none", exit.spawnError);
  const result = {
    ...emptyResult,
    exit_code: exit.code,
    signal: exit.signal,
    run_ms: exit.runMs,
    output: exit.output,
  };
  if (exit.stopped === "timeout") {
    return { outcome: "expired", reason: "execution_timeout", effect: "unknown", result };
  }
  if (exit.stopped === "cancel" || (exit.stopped === "signal" && cancelAsked)) {
    return { outcome: "cancelled", reason: "cancelled_while_running", effect: "unknown", result };
  }
  if (exit.code === 0) return { outcome: "succeeded", reason: "completed", effect: "applied", result };
  if (exit.code !== null) return { outcome: "failed", reason: "exit_nonzero", effect: "unknown", result };
  return { outcome: "failed", reason: "killed_by_signal", effect: "unknown", result };
}

/** Nobody saw the end: the supervisor is gone without an exit record, or the machine was started again. */
export function lostOutcome(reason: "supervisor_lost" | "agent_restarted", survivors: number): Outcome {
  const what =
    reason === "agent_restarted"
      ? "the machine was restarted while the command ran"
      : "the supervisor of the command died without recording an exit";
  const stopped = survivors > 0 ? `; ${survivors} processes that were left of it were stopped` : "";
  return failed(reason, "unknown", what + stopped);
}
