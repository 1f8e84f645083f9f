import { MusterError } from "@muster/contracts/errors";
import type { Tx } from "@muster/database/database";

export interface AgentKey {
  readonly tenantId: string;
  readonly agentId: string;
}
export const agentKeyOf = (agent: AgentKey): string => `${agent.tenantId}/${agent.agentId}`;

export interface SessionRow {
  readonly tenant_id: string;
  readonly agent_id: string;
  readonly generation: number;
  readonly session_id: string;
  readonly quarantine_reason: string | null;
}

/** The sessions of these agents as they are now. */
export async function loadSessions(tx: Tx, agents: readonly AgentKey[]): Promise<Map<string, SessionRow>> {
  const distinct = [...new Map(agents.map((agent) => [agentKeyOf(agent), agent])).values()];
  const rows = await tx.query<SessionRow>(
    `SELECT tenant_id, agent_id, generation, session_id, quarantine_reason FROM agent_sessions
     WHERE (tenant_id, agent_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))`,
    [distinct.map((agent) => agent.tenantId), distinct.map((agent) => agent.agentId)],
    { name: "vmops_load_sessions" },
  );
  return new Map(rows.map((row) => [agentKeyOf({ tenantId: row.tenant_id, agentId: row.agent_id }), row]));
}

/** Why a report of this session is refused; undefined when the session is the agent's newest. */
export function sessionFault(
  known: SessionRow | undefined,
  session: { generation: number; session_id: string },
): MusterError | undefined {
  // A session that we know less of than the agent does: the database is an older copy. The next hello mends it.
  if (known === undefined || session.generation > known.generation) {
    const text = "this session is not known here; say hello again";
    return new MusterError("DEPENDENCY_UNAVAILABLE", text, { retryAfterMs: 1_000 });
  }
  if (known.quarantine_reason !== null) {
    return new MusterError("AGENT_QUARANTINED", `quarantined: ${known.quarantine_reason}`);
  }
  if (session.generation === known.generation && session.session_id === known.session_id) return undefined;
  return new MusterError("AGENT_SUPERSEDED");
}
