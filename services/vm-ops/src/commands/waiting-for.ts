import type { CommandDetail } from "@muster/contracts/commands";
import type { CommandState } from "@muster/contracts/commands";

export interface Situation {
  readonly state: CommandState;
  readonly desired: "run" | "cancel";
  readonly lane: "work" | "control";
  /** An agent serves its VM. */
  readonly agentKnown: boolean;
  readonly agentOnline: boolean;
  readonly agentQuarantined: boolean;
  /** The command of the same VM that must start or end first. */
  readonly earlier: { readonly id: string; readonly state: CommandState } | null;
}

/** What a command waits for, in one sentence; null when it has ended. */
export function waitingFor(now: Situation): CommandDetail["waiting_for"] {
  switch (now.state) {
    case "awaiting_approval":
      return { code: "approval", message: "an approval" };
    case "running":
      return now.desired === "cancel"
        ? { code: "cancel", message: "the agent to confirm that it has stopped" }
        : { code: "result", message: "the agent's result" };
    case "queued":
    case "dispatched":
      return waitingInQueue(now);
    case "denied":
    case "succeeded":
    case "failed":
    case "expired":
    case "cancelled":
    case "dead_lettered":
      return null;
  }
}

function waitingInQueue(now: Situation): CommandDetail["waiting_for"] {
  if (!now.agentKnown) return { code: "no_agent", message: "an agent that serves this VM" };
  if (now.agentQuarantined) {
    return { code: "agent_offline", message: "the VM's agent to be released from quarantine" };
  }
  if (!now.agentOnline) return { code: "agent_offline", message: "the VM's agent to come back" };
  if (now.lane === "work" && now.earlier !== null) {
    const what = now.earlier.state === "running" ? "to end" : "to start";
    return { code: "earlier_command", message: `command ${now.earlier.id} of the same VM ${what}` };
  }
  if (now.state === "queued") return { code: "broker", message: "the broker to take its doorbell" };
  return { code: "claim", message: "the agent to claim it" };
}
