import type { EventItem } from "@muster/broker/broker";
import type { agentChanged } from "@muster/contracts/pairing";
import type { Tx } from "@muster/database/database";
import { agentKeyOf, type AgentKey } from "./sessions.ts";

/** What auth has told of an agent last. */
export interface PairedAgent {
  readonly state: "paired" | "revoked";
  readonly epoch: number;
  readonly vmUuids: ReadonlySet<string>;
}

/** Agents that auth has told of, among these; what is told of them meanwhile waits until this transaction has ended. */
export async function loadPaired(tx: Tx, agents: readonly AgentKey[]): Promise<Map<string, PairedAgent>> {
  const rows = await tx.query<{
    tenant_id: string;
    agent_id: string;
    state: "paired" | "revoked";
    epoch: number;
    vm_uuids: string[];
  }>(
    `SELECT tenant_id, agent_id, state, epoch, vm_uuids FROM paired_agents
     WHERE (tenant_id, agent_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
     ORDER BY tenant_id, agent_id FOR SHARE`,
    [agents.map((agent) => agent.tenantId), agents.map((agent) => agent.agentId)],
    { name: "vmops_load_paired" },
  );
  return new Map(
    rows.map((row) => [
      agentKeyOf({ tenantId: row.tenant_id, agentId: row.agent_id }),
      { state: row.state, epoch: row.epoch, vmUuids: new Set(row.vm_uuids) },
    ]),
  );
}

type Heard = EventItem<typeof agentChanged>;

interface News extends AgentKey {
  readonly revision: number;
  readonly state: "paired" | "revoked";
  readonly epoch: number;
  readonly vm_uuids: readonly string[];
}

interface Known {
  readonly tenant_id: string;
  readonly agent_id: string;
  readonly epoch: number;
}

const keyOfRow = (row: Known): string => agentKeyOf({ tenantId: row.tenant_id, agentId: row.agent_id });

/**
 * Takes what auth tells, the newest of each agent. VMs that an agent may not serve any more are taken from it at once; one that
 * was paired anew gets a new epoch for its VMs, so that what was rung for the one before is refused, and is let out of
 * quarantine.
 */
export async function notePairings(tx: Tx, events: readonly Heard[]): Promise<void> {
  const newest = new Map<string, News>();
  for (const { payload, context } of events) {
    if (context.tenantId === undefined) continue;
    const news: News = { tenantId: context.tenantId, agentId: payload.agent_id, ...payload };
    const known = newest.get(agentKeyOf(news));
    if (known === undefined || known.revision < news.revision) newest.set(agentKeyOf(news), news);
  }
  const all = [...newest.values()].sort((a, b) => (agentKeyOf(a) < agentKeyOf(b) ? -1 : 1));
  if (all.length === 0) return;
  const wanted = JSON.stringify(
    all.map(({ tenantId, agentId, revision, state, epoch, vm_uuids }) => ({
      ...{ tenant_id: tenantId, agent_id: agentId, revision, state, epoch },
      // As text: a list inside a recordset is no array.
      vm_uuids: `{${vm_uuids.join(",")}}`,
    })),
  );
  const told = [all.map(({ tenantId }) => tenantId), all.map(({ agentId }) => agentId)];
  const before = new Map((await tx.query<Known>(beforeText, told)).map((row) => [keyOfRow(row), row.epoch]));
  const changed = await tx.query<Known>(upsertText, [wanted]);
  if (changed.length === 0) return;
  const keys = [changed.map((row) => row.tenant_id), changed.map((row) => row.agent_id)];
  const again = changed.filter((row) => row.epoch > (before.get(keyOfRow(row)) ?? row.epoch));
  const anew = [again.map((row) => row.tenant_id), again.map((row) => row.agent_id)];
  // Pairings, sessions, VMs: in the order in which a hello takes them.
  if (again.length > 0) await tx.execute(releaseText, anew);
  await tx.execute(lockText, keys);
  await tx.execute(takeAwayText, keys);
  if (again.length > 0) await tx.execute(epochText, anew);
}

const ofThese = "unnest($1::text[], $2::uuid[]) AS a(tenant_id, agent_id)";
const beforeText = `SELECT p.tenant_id, p.agent_id, p.epoch FROM paired_agents p
  JOIN ${ofThese} ON p.tenant_id = a.tenant_id AND p.agent_id = a.agent_id
  ORDER BY p.tenant_id, p.agent_id FOR UPDATE OF p`;
const upsertText = `INSERT INTO paired_agents AS p (tenant_id, agent_id, revision, state, epoch, vm_uuids)
  SELECT tenant_id, agent_id, revision, state, epoch, vm_uuids::uuid[]
  FROM json_to_recordset($1::json)
    AS t(tenant_id text, agent_id uuid, revision integer, state text, epoch integer, vm_uuids text)
  ORDER BY tenant_id, agent_id
  ON CONFLICT (tenant_id, agent_id) DO UPDATE SET revision = excluded.revision, state = excluded.state,
    epoch = excluded.epoch, vm_uuids = excluded.vm_uuids, changed_at = now()
  WHERE p.revision < excluded.revision
  RETURNING p.tenant_id, p.agent_id, p.epoch`;

const lockText = `SELECT 1 FROM vms v JOIN ${ofThese} ON v.tenant_id = a.tenant_id AND v.agent_id = a.agent_id
  ORDER BY v.tenant_id, v.vm_uuid FOR NO KEY UPDATE OF v`;
// Those of the agent now, and those that nobody has since it was revoked.
const epochText = `UPDATE vms v SET epoch = v.epoch + 1 FROM ${ofThese}
  JOIN paired_agents p ON p.tenant_id = a.tenant_id AND p.agent_id = a.agent_id
  WHERE v.tenant_id = a.tenant_id AND v.vm_uuid = ANY (p.vm_uuids) AND v.state = 'active'
    AND (v.agent_id = a.agent_id OR v.agent_id IS NULL)`;
const takeAwayText = `UPDATE vms v SET agent_id = NULL FROM ${ofThese}
  JOIN paired_agents p ON p.tenant_id = a.tenant_id AND p.agent_id = a.agent_id
  WHERE v.tenant_id = a.tenant_id AND v.agent_id = a.agent_id
    AND (p.state = 'revoked' OR v.vm_uuid <> ALL (p.vm_uuids))`;
const releaseText = `UPDATE agent_sessions s SET quarantined_at = NULL, quarantine_reason = NULL, released = true
  FROM ${ofThese} WHERE s.tenant_id = a.tenant_id AND s.agent_id = a.agent_id`;
