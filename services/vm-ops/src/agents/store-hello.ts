import { MusterError } from "@muster/contracts/errors";
import type { ActionName } from "@muster/contracts/actions";
import type { agentHello, Doorbell } from "@muster/contracts/agents";
import type { PayloadOf } from "@muster/contracts/define";
import type { Tx } from "@muster/database/database";
import { doorbellPayloadOf, ringingOf } from "../commands/messages.ts";
import { rowColumns } from "../commands/row.ts";
import type { CommandRow } from "../commands/row.ts";
import { storable } from "../text.ts";
import { agentKeyOf } from "./sessions.ts";
import type { AgentKey } from "./sessions.ts";
import type { KnownSession } from "./session-policy.ts";

type HelloPayload = PayloadOf<typeof agentHello>;
export type SessionForHello = KnownSession;

const sessionColumns = `s.tenant_id, s.agent_id, s.generation, s.used_generation, s.session_id, s.journal_id,
  s.journal_seq, s.quarantine_reason, s.released,
  (extract(epoch FROM clock_timestamp() - s.started_at) * 1000)::float8 AS age_ms`;

interface Row {
  readonly tenant_id: string;
  readonly agent_id: string;
  readonly generation: number;
  readonly used_generation: number;
  readonly session_id: string;
  readonly journal_id: string;
  readonly journal_seq: number;
  readonly quarantine_reason: string | null;
  readonly released: boolean;
  readonly age_ms: number;
}

const sessionOf = (row: Row): SessionForHello => ({
  generation: row.generation,
  usedGeneration: row.used_generation,
  sessionId: row.session_id,
  journalId: row.journal_id,
  journalSeq: row.journal_seq,
  ageMs: row.age_ms,
  quarantineReason: row.quarantine_reason,
  released: row.released,
});

/** Locks what is known of these agents, in one order for everybody. */
export async function lockSessions(
  tx: Tx,
  agents: readonly AgentKey[],
): Promise<Map<string, SessionForHello>> {
  const rows = await tx.query<Row>(
    `SELECT ${sessionColumns} FROM agent_sessions s
     WHERE (s.tenant_id, s.agent_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
     ORDER BY s.tenant_id, s.agent_id FOR UPDATE`,
    [agents.map((agent) => agent.tenantId), agents.map((agent) => agent.agentId)],
    { name: "vmops_lock_sessions" },
  );
  return new Map(
    rows.map((row) => [agentKeyOf({ tenantId: row.tenant_id, agentId: row.agent_id }), sessionOf(row)]),
  );
}

export interface SessionWrite {
  readonly agent: AgentKey;
  readonly hello: HelloPayload;
  readonly actions: readonly ActionName[];
  readonly generation: number;
  /** 0 when the agent was not known. */
  readonly previousGeneration: number;
  /** A new session; otherwise the known one says hello again. */
  readonly fresh: boolean;
  readonly quarantineReason: string | null;
}

// A quarantined agent keeps what was known of it: it is what the next hello is held against.
const writeText = `INSERT INTO agent_sessions AS s (tenant_id, agent_id, generation, used_generation, session_id,
    boot_id, journal_id, journal_seq, version, drivers, actions, quarantined_at, quarantine_reason)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, CASE WHEN $12::text IS NULL THEN NULL ELSE now() END, $12)
  ON CONFLICT (tenant_id, agent_id) DO UPDATE SET
    generation = CASE WHEN $12::text IS NULL THEN excluded.generation ELSE s.generation END,
    used_generation = CASE WHEN $12::text IS NULL THEN
      CASE WHEN s.journal_id = excluded.journal_id THEN greatest(s.used_generation, excluded.used_generation)
        ELSE excluded.used_generation END ELSE s.used_generation END,
    session_id = CASE WHEN $12::text IS NULL THEN excluded.session_id ELSE s.session_id END,
    journal_id = CASE WHEN $12::text IS NULL THEN excluded.journal_id ELSE s.journal_id END,
    journal_seq = CASE WHEN $12::text IS NOT NULL THEN s.journal_seq
      WHEN s.journal_id = excluded.journal_id THEN greatest(s.journal_seq, excluded.journal_seq)
      ELSE excluded.journal_seq END,
    started_at = CASE WHEN $13::boolean THEN now() ELSE s.started_at END,
    boot_id = excluded.boot_id, version = excluded.version, drivers = excluded.drivers,
    actions = excluded.actions, last_seen_at = now(),
    online_since = CASE WHEN s.online AND NOT $13::boolean THEN s.online_since ELSE now() END, online = true,
    quarantined_at = CASE WHEN $12::text IS NULL THEN NULL ELSE coalesce(s.quarantined_at, now()) END,
    quarantine_reason = $12, released = s.released AND $12::text IS NOT NULL
  WHERE s.generation = $14
  RETURNING ${sessionColumns}`;

/** Throws DEPENDENCY_UNAVAILABLE when the same new agent said hello twice at once: the next hello settles it. */
export async function writeSession(tx: Tx, write: SessionWrite): Promise<SessionForHello> {
  const { agent, hello } = write;
  const rows = await tx.query<Row>(
    writeText,
    [
      ...[agent.tenantId, agent.agentId, write.generation, hello.last_generation, hello.session_id],
      ...[storable(hello.boot_id), hello.journal_id, hello.journal_seq, storable(hello.version)],
      ...[JSON.stringify(hello.drivers), write.actions, write.quarantineReason, write.fresh],
      write.previousGeneration,
    ],
    { name: "vmops_write_session" },
  );
  const [row] = rows;
  if (row === undefined) throw new MusterError("DEPENDENCY_UNAVAILABLE", undefined, { retryAfterMs: 100 });
  return sessionOf(row);
}

export interface BoundVm {
  readonly agent: string;
  readonly vm_uuid: string;
  readonly epoch: number;
  readonly concurrency: number;
}

type Greeted = { readonly context: AgentKey; readonly payload: Pick<HelloPayload, "vm_uuids"> };

/** Gives active VMs to the agents that named them, the last one winning, and takes away those they no longer name. */
export async function bindVms(tx: Tx, greeted: readonly Greeted[]): Promise<BoundVm[]> {
  if (greeted.length === 0) return [];
  const asked = new Map<string, { tenant_id: string; vm_uuid: string; agent_id: string }>();
  for (const { context, payload } of greeted) {
    for (const vm_uuid of payload.vm_uuids) {
      const vm = { tenant_id: context.tenantId, vm_uuid, agent_id: context.agentId };
      asked.set(`${vm.tenant_id}/${vm_uuid}`, vm);
    }
  }
  const wanted = JSON.stringify([...asked.values()]);
  const recordset = "json_to_recordset($1::json) AS g(tenant_id text, vm_uuid uuid, agent_id uuid)";
  await tx.query(
    `SELECT 1 FROM vms v WHERE (v.tenant_id, v.vm_uuid) IN (SELECT g.tenant_id, g.vm_uuid FROM ${recordset})
     ORDER BY v.tenant_id, v.vm_uuid FOR NO KEY UPDATE`,
    [wanted],
    { name: "vmops_lock_named_vms" },
  );
  await tx.query(
    `WITH bound AS (
       UPDATE vms v SET agent_id = g.agent_id FROM ${recordset}
       WHERE v.tenant_id = g.tenant_id AND v.vm_uuid = g.vm_uuid AND v.state = 'active'
         AND v.agent_id IS DISTINCT FROM g.agent_id)
     UPDATE vms v SET agent_id = NULL FROM unnest($2::text[], $3::uuid[]) AS a(tenant_id, agent_id)
     WHERE v.tenant_id = a.tenant_id AND v.agent_id = a.agent_id
       AND (v.tenant_id, v.vm_uuid) NOT IN (SELECT g.tenant_id, g.vm_uuid FROM ${recordset})`,
    [wanted, greeted.map(({ context }) => context.tenantId), greeted.map(({ context }) => context.agentId)],
    { name: "vmops_bind_vms" },
  );
  return tx.query<BoundVm>(
    `SELECT v.tenant_id || '/' || v.agent_id AS agent, v.vm_uuid, v.epoch, v.concurrency
     FROM ${recordset} JOIN vms v ON v.tenant_id = g.tenant_id AND v.vm_uuid = g.vm_uuid
     WHERE v.state = 'active' AND v.agent_id = g.agent_id`,
    [wanted],
    { name: "vmops_bound_vms" },
  );
}

/** At most this many doorbells are rung again by one hello. */
const pendingMax = 1_000;

type PendingRow = CommandRow & { readonly epoch: number };

/** What waits for the VMs of these agents, and what they should stop: in the order of acceptance, by agent. */
export async function pendingFor(tx: Tx, greeted: readonly Greeted[]): Promise<Map<string, Doorbell[]>> {
  if (greeted.length === 0) return new Map();
  const rows = await tx.query<PendingRow & { agent: string }>(
    `SELECT * FROM (
       SELECT p.*, v.epoch, v.tenant_id || '/' || v.agent_id AS agent,
         row_number() OVER (PARTITION BY v.tenant_id, v.agent_id ORDER BY p.seq) AS nth
       FROM unnest($1::text[], $2::uuid[]) AS a(tenant_id, agent_id)
       JOIN vms v ON v.tenant_id = a.tenant_id AND v.agent_id = a.agent_id AND v.state = 'active'
       CROSS JOIN LATERAL (
         (SELECT ${rowColumns} FROM commands c WHERE c.tenant_id = v.tenant_id AND c.vm_uuid = v.vm_uuid
            AND c.phase = 'waiting' AND c.state IN ('queued', 'dispatched') AND c.expires_at > now()
          ORDER BY c.seq LIMIT ${pendingMax})
         UNION ALL
         (SELECT ${rowColumns} FROM commands c WHERE c.tenant_id = v.tenant_id AND c.vm_uuid = v.vm_uuid
            AND c.phase = 'running' AND c.desired = 'cancel' LIMIT ${pendingMax})) p
     ) ranked WHERE nth <= ${pendingMax} ORDER BY seq`,
    [greeted.map(({ context }) => context.tenantId), greeted.map(({ context }) => context.agentId)],
    { name: "vmops_pending" },
  );
  const pending = new Map<string, Doorbell[]>();
  for (const row of rows) {
    const waitMs = row.expires_at.getTime() - row.now.getTime();
    const kind = row.state === "running" ? "cancel" : "run";
    const list = pending.get(row.agent) ?? [];
    list.push(doorbellPayloadOf(ringingOf(row, row.epoch, row.attempt, waitMs), kind));
    pending.set(row.agent, list);
  }
  return pending;
}
