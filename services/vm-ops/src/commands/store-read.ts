import { isTerminal } from "@muster/contracts/commands";
import type { CommandDetail, CommandEvent, CommandState, Effect, Reason } from "@muster/contracts/commands";
import type { Tx } from "@muster/database/database";
import { paramsOf, resultOf, rowColumns, summaryOf } from "./row.ts";
import type { CommandRow } from "./row.ts";
import { waitingFor } from "./waiting-for.ts";

type DetailRow = CommandRow & {
  readonly params: string;
  readonly result: string | null;
  readonly agent_known: boolean;
  readonly agent_online: boolean | null;
  readonly agent_quarantined: boolean | null;
  readonly earlier_id: string | null;
  readonly earlier_state: CommandState | null;
};

// What must go first: the oldest that runs while the VM is full, else the nearest that waits before it.
const detailText = `SELECT ${rowColumns}, c.params, c.result, s.agent_id IS NOT NULL AS agent_known,
    s.online AS agent_online, s.quarantined_at IS NOT NULL AS agent_quarantined,
    e.id AS earlier_id, e.state AS earlier_state
  FROM commands c
  LEFT JOIN vms v ON v.tenant_id = c.tenant_id AND v.vm_uuid = c.vm_uuid
  LEFT JOIN agent_sessions s ON s.tenant_id = v.tenant_id AND s.agent_id = v.agent_id
  LEFT JOIN LATERAL (
    (SELECT w.id, w.state, 1 AS rank, w.seq FROM commands w
      WHERE w.tenant_id = c.tenant_id AND w.vm_uuid = c.vm_uuid AND w.phase = 'waiting' AND w.lane = 'work'
        AND w.seq < c.seq AND w.expires_at > now() ORDER BY w.seq LIMIT 1)
    UNION ALL
    (SELECT r.id, r.state, 0 AS rank, r.seq FROM commands r
      WHERE r.tenant_id = c.tenant_id AND r.vm_uuid = c.vm_uuid AND r.phase = 'running' AND r.lane = 'work'
        AND (SELECT count(*) FROM commands n WHERE n.tenant_id = c.tenant_id AND n.vm_uuid = c.vm_uuid
          AND n.phase = 'running' AND n.lane = 'work') >= v.concurrency
      ORDER BY r.seq LIMIT 1)
    ORDER BY rank, seq LIMIT 1) e ON c.phase = 'waiting'
  WHERE c.tenant_id = $1 AND c.id = $2`;

/** One command with everything there is to say; undefined when this tenant has none of this id. */
export async function readDetail(tx: Tx, tenantId: string, id: string): Promise<CommandDetail | undefined> {
  const [row] = await tx.query<DetailRow>(detailText, [tenantId, id], { name: "vmops_read_detail" });
  if (row === undefined) return undefined;
  const { earlier_id, earlier_state } = row;
  const earlier =
    earlier_id === null || earlier_state === null ? null : { id: earlier_id, state: earlier_state };
  return {
    ...summaryOf(row),
    params: paramsOf(row.params),
    result: resultOf(row.result),
    waiting_for: waitingFor({
      state: row.state,
      desired: row.desired,
      lane: row.lane,
      agentKnown: row.agent_known,
      agentOnline: row.agent_online ?? false,
      agentQuarantined: row.agent_quarantined ?? false,
      earlier,
    }),
  };
}

export interface CommandEnd {
  readonly state: CommandState;
  readonly reason: Reason;
  readonly effect: Effect;
  readonly attempt: number;
  readonly late: boolean;
}

/** Null while it has not ended. */
export async function readEnd(tx: Tx, tenantId: string, id: string): Promise<CommandEnd | null> {
  const [row] = await tx.query<CommandEnd>(
    "SELECT state, reason, effect, attempt, late FROM commands WHERE tenant_id = $1 AND id = $2",
    [tenantId, id],
    { name: "vmops_read_end" },
  );
  return row !== undefined && isTerminal(row.state) ? row : null;
}

export interface ListFilter {
  readonly tenantId: string;
  readonly vmUuid: string | null;
  readonly action: string | null;
  readonly states: readonly string[] | null;
  readonly acceptedAfter: string | null;
  readonly acceptedBefore: string | null;
  readonly correlationId: string | null;
  /** Older than this command only. */
  readonly before: string | null;
}

/** Newest first. With a VM it goes by that VM's own index. */
export async function listRows(tx: Tx, filter: ListFilter, limit: number): Promise<CommandRow[]> {
  const byVm = filter.vmUuid === null ? "" : "AND c.vm_uuid = $7";
  const order = filter.vmUuid === null ? "c.id DESC" : "c.vm_uuid, c.id DESC";
  return tx.query<CommandRow>(
    `SELECT ${rowColumns} FROM commands c WHERE c.tenant_id = $1
       AND ($2::text IS NULL OR c.action = $2) AND ($3::text[] IS NULL OR c.state = ANY ($3))
       AND ($4::timestamptz IS NULL OR c.accepted_at > $4) AND ($5::timestamptz IS NULL OR c.accepted_at < $5)
       AND ($6::text IS NULL OR c.correlation_id = $6) AND ($8::uuid IS NULL OR c.id < $8)
       AND ($7::uuid IS NULL OR c.vm_uuid = $7) ${byVm}
     ORDER BY ${order} LIMIT $9`,
    [
      ...[filter.tenantId, filter.action, filter.states, filter.acceptedAfter, filter.acceptedBefore],
      ...[filter.correlationId, filter.vmUuid, filter.before, limit],
    ],
  );
}

interface EventRow {
  readonly id: number;
  readonly at: Date;
  readonly from_state: CommandState | null;
  readonly to_state: CommandState;
  readonly attempt: number;
  readonly reason: Reason;
  readonly rule: string;
  readonly actor: string;
  readonly details: string;
}

/** A command's history after this event, oldest first; undefined when there is no such command. */
export async function readEvents(
  tx: Tx,
  command: { tenantId: string; id: string },
  after: number,
  limit: number,
): Promise<CommandEvent[] | undefined> {
  const rows = await tx.query<EventRow>(
    `SELECT id, at, from_state, to_state, attempt, reason, rule, actor, details FROM command_events
     WHERE tenant_id = $1 AND command_id = $2 AND id > $3 ORDER BY id LIMIT $4`,
    [command.tenantId, command.id, after, limit],
    { name: "vmops_read_events" },
  );
  if (rows.length === 0) {
    const known = await tx.query("SELECT 1 FROM commands WHERE tenant_id = $1 AND id = $2", [
      command.tenantId,
      command.id,
    ]);
    if (known.length === 0) return undefined;
  }
  return rows.map((row) => ({
    id: row.id,
    at: row.at.toISOString(),
    from: row.from_state,
    to: row.to_state,
    attempt: row.attempt,
    reason: row.reason,
    rule: row.rule,
    actor: row.actor,
    details: paramsOf(row.details),
  }));
}
