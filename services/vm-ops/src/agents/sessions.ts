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
  readonly used_generation: number;
  readonly session_id: string;
  readonly quarantine_reason: string | null;
  /** Null where the agent is not paired, or was revoked. */
  readonly epoch: number | null;
}

/** The sessions of these agents as they are now. */
export async function loadSessions(tx: Tx, agents: readonly AgentKey[]): Promise<Map<string, SessionRow>> {
  const distinct = [...new Map(agents.map((agent) => [agentKeyOf(agent), agent])).values()];
  const rows = await tx.query<SessionRow>(
    `SELECT s.tenant_id, s.agent_id, s.generation, s.used_generation, s.session_id, s.quarantine_reason,
       p.epoch FROM agent_sessions s
     LEFT JOIN paired_agents p ON p.tenant_id = s.tenant_id AND p.agent_id = s.agent_id AND p.state = 'paired'
     WHERE (s.tenant_id, s.agent_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))`,
    [distinct.map((agent) => agent.tenantId), distinct.map((agent) => agent.agentId)],
    { name: "vmops_load_sessions" },
  );
  return new Map(rows.map((row) => [agentKeyOf({ tenantId: row.tenant_id, agentId: row.agent_id }), row]));
}

/**
 * These agents have shown to know their newest generation: an older copy of theirs is known from now on. Once a session, for the
 * other signs of life are written down together and later.
 */
export async function markUsed(tx: Tx, sessions: readonly SessionRow[]): Promise<void> {
  const unmarked = [...new Set(sessions)].filter((row) => row.used_generation < row.generation);
  if (unmarked.length === 0) return;
  unmarked.sort((a, b) => (a.tenant_id + a.agent_id < b.tenant_id + b.agent_id ? -1 : 1));
  await tx.execute(
    `UPDATE agent_sessions s SET used_generation = greatest(s.used_generation, g.generation)
     FROM unnest($1::text[], $2::uuid[], $3::integer[]) AS g(tenant_id, agent_id, generation)
     WHERE s.tenant_id = g.tenant_id AND s.agent_id = g.agent_id AND s.generation = g.generation`,
    [
      ...[unmarked.map((row) => row.tenant_id), unmarked.map((row) => row.agent_id)],
      unmarked.map((row) => row.generation),
    ],
    { name: "vmops_mark_used" },
  );
}

/** Why a report of this session is refused; undefined when the session is the newest of the agent as it is paired now. */
export function sessionFault(
  known: SessionRow | undefined,
  session: { generation: number; session_id: string },
  epoch: number,
): MusterError | undefined {
  // A session that we know less of than the agent does: the database is an older copy. The next hello mends it.
  if (known === undefined || (known.epoch === epoch && session.generation > known.generation)) {
    const text = "this session is not known here; say hello again";
    return new MusterError("DEPENDENCY_UNAVAILABLE", text, { retryAfterMs: 1_000 });
  }
  if (known.epoch !== epoch) return new MusterError("AGENT_REVOKED");
  if (known.quarantine_reason !== null) {
    return new MusterError("AGENT_QUARANTINED", `quarantined: ${known.quarantine_reason}`);
  }
  if (session.generation === known.generation && session.session_id === known.session_id) return undefined;
  return new MusterError("AGENT_SUPERSEDED");
}
