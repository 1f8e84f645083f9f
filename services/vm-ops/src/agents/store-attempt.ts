import type { Tx } from "@muster/database/database";

export interface AttemptKey {
  readonly tenantId: string;
  readonly agentId: string;
  readonly commandId: string;
  readonly attempt: number;
}

export interface RunningAttempt {
  readonly vm_uuid: string;
  readonly labels: Record<string, string>;
  readonly project_id: string | null;
  readonly requested_by: string;
  /** Canonical JSON. */
  readonly params: string;
  readonly claim_nonce: string;
  readonly left_ms: number;
}

// What a sweep has judged is no longer running; a lease that is merely late is still the agent's.
const text = `SELECT c.vm_uuid, v.labels, c.project_id, c.requested_by, c.params, c.claim_nonce,
    least(c.timeout_ms, ceil(extract(epoch FROM c.run_until - now()) * 1000))::float8 AS left_ms
  FROM commands c
  JOIN vms v ON v.tenant_id = c.tenant_id AND v.vm_uuid = c.vm_uuid
  JOIN paired_agents p ON p.tenant_id = c.tenant_id AND p.agent_id = c.agent_id
  WHERE c.tenant_id = $1 AND c.id = $2 AND c.attempt = $3 AND c.agent_id = $4
    AND c.state = 'running' AND c.desired = 'run' AND c.run_until > now()
    AND v.agent_id = c.agent_id AND p.state = 'paired' AND c.vm_uuid = ANY (p.vm_uuids)
    AND NOT EXISTS (SELECT 1 FROM agent_sessions s WHERE s.tenant_id = c.tenant_id AND s.agent_id = c.agent_id
      AND s.quarantined_at IS NOT NULL)`;

/** The attempt if this agent runs it now, without a lock: whoever claims or reports does not wait for it. */
export async function findRunning(tx: Tx, key: AttemptKey): Promise<RunningAttempt | undefined> {
  const values = [key.tenantId, key.commandId, key.attempt, key.agentId];
  const [row] = await tx.query<RunningAttempt>(text, values, { name: "vmops_find_running" });
  return row;
}
