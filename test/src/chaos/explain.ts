import { asAdmin } from "../model/facts.ts";
import type { System } from "../system.ts";
import type { Outcome } from "./report.ts";

/** Ends that only a fault explains: the model lets them pass, and here each must have its fault. */
export const explainable = ["failed:supervisor_lost", "failed:start_failed", "dead_lettered:poison"];

interface Ended {
  readonly id: string;
  readonly reason: string;
  readonly agent_id: string | null;
}

/** Commands that ended in a way that nothing that was done to the system explains, in words. */
export async function unexplained(system: System, outcomes: readonly Outcome[]): Promise<string[]> {
  const rows = await asAdmin(system.adminDatabaseUrl, (admin) =>
    admin.query<Ended>(
      `SELECT id, reason, agent_id FROM vm_ops.commands
       WHERE reason IN ('supervisor_lost', 'start_failed', 'poison')`,
    ),
  );
  const nameOf = new Map(system.agents.map((agent) => [agent.agentId, agent.process.name]));
  const count = (fault: string, target: string | undefined): number =>
    outcomes.filter((one) => one.fault === fault && one.target === target).length;
  return rows
    .filter(({ id, reason, agent_id }) => {
      const agent = nameOf.get(agent_id ?? "");
      if (reason === "poison") return count("process killed", agent) < 2;
      const supervisorKilled = outcomes.some(
        (one) => one.fault === "supervisor killed" && one.detail?.startsWith(id) === true,
      );
      return !supervisorKilled && (reason === "supervisor_lost" || count("disk full", agent) === 0);
    })
    .map(
      ({ id, reason, agent_id }) =>
        `${id} ended by ${reason} on ${nameOf.get(agent_id ?? "") ?? "no agent"}, and no fault explains it`,
    );
}
