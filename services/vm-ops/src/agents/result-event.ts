import type { resultOutcomes } from "@muster/contracts/agents";
import type { Effect, Reason } from "@muster/contracts/commands";
import type { Happening } from "../commands/machine.ts";
import type { CommandRow } from "../commands/row.ts";

export interface ReportedEnd {
  readonly outcome: (typeof resultOutcomes)[number];
  readonly reason: Reason;
  readonly effect: Effect;
}

/** How often an attempt may be given back as never started before the command is given up. */
export const abandonsMax = 10;

const failures: ReadonlySet<Reason> = new Set<Reason>([
  "exit_nonzero",
  "killed_by_signal",
  "start_failed",
  "secret_refused",
  "action_not_supported",
  "agent_restarted",
  "supervisor_lost",
]);

/**
 * The machine's event for what an agent reports. An agent that was told to stop does not know why: the reason that
 * is on record decides between cancelled, timed out and gone. What somebody stopped before it ever started is not put
 * back into the queue.
 */
export function eventOfResult(
  end: ReportedEnd,
  row: Pick<CommandRow, "desired" | "reason" | "abandons" | "state">,
): Happening {
  const { effect } = end;
  const stopping = row.desired === "cancel" ? row.reason : undefined;
  switch (end.outcome) {
    case "succeeded":
      return { event: "result_succeeded", effect };
    case "failed":
      return {
        event: "result_failed",
        effect,
        reason: failures.has(end.reason) ? end.reason : "supervisor_lost",
      };
    case "expired":
      return { event: "result_expired", effect };
    case "poison":
      return { event: "result_poison", effect };
    case "cancelled":
      if (stopping === "execution_timeout") return { event: "result_expired", effect };
      return { event: "result_cancelled", effect, reason: cancelReason(stopping, end.reason) };
    case "abandoned":
      // Nobody wants it gone whose time only ran out before it could start: it is put back.
      if (row.state === "running" && stopping !== undefined && stopping !== "execution_timeout") {
        return {
          event: "result_cancelled",
          effect,
          reason: cancelReason(stopping, "cancelled_before_start"),
        };
      }
      if (row.state === "running" && row.abandons >= abandonsMax) return { event: "abandons_exhausted" };
      return { event: "result_abandoned", effect };
  }
}

function cancelReason(stopping: Reason | undefined, said: Reason): Reason {
  if (stopping === "target_gone") return "target_gone";
  return said === "cancelled_before_start" ? said : "cancelled_while_running";
}
