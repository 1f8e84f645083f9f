import { isTerminal } from "@muster/contracts/commands";
import type { CommandResult, Effect } from "@muster/contracts/commands";
import type { Tx } from "@muster/database/database";
import { decide } from "./machine.ts";
import type { Happening, Transition } from "./machine.ts";
import { doorbell, eventsOf, ringingOf } from "./messages.ts";
import { lifeOf, rowColumns } from "./row.ts";
import type { CommandRow } from "./row.ts";

export interface CommandKey {
  readonly tenantId: string;
  readonly id: string;
}

/** A command locked against every other change; `epoch` is its VM's. */
export type LockedCommand = CommandRow & { readonly epoch: number };

const lockText = `SELECT ${rowColumns},
    (SELECT v.epoch FROM vms v WHERE v.tenant_id = c.tenant_id AND v.vm_uuid = c.vm_uuid) AS epoch
  FROM commands c WHERE (c.tenant_id, c.id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
  ORDER BY c.tenant_id, c.id FOR NO KEY UPDATE`;

/** Locks these commands, in one order for everybody; those that do not exist are missing. */
export async function lockCommands(tx: Tx, keys: readonly CommandKey[]): Promise<Map<string, LockedCommand>> {
  const values = [keys.map((key) => key.tenantId), keys.map((key) => key.id)];
  const rows = await tx.query<LockedCommand>(lockText, values, { name: "vmops_lock_commands" });
  return new Map(rows.map((row) => [keyOf({ tenantId: row.tenant_id, id: row.id }), row]));
}

export const keyOf = (key: CommandKey): string => `${key.tenantId}/${key.id}`;

/** A transition that was decided on a locked command, with what goes along with it. */
export interface Written {
  readonly row: LockedCommand;
  readonly life: Transition;
  /** `user:…`, `agent:<id>`, `sweep`, `broker`. */
  readonly actor: string;
  /** The sweep's rule or the policy's branch, where the machine's event does not say enough. */
  readonly rule?: string | undefined;
  readonly details?: Readonly<Record<string, unknown>> | undefined;
  readonly claim?:
    { agentId: string; generation: number; nonce: string; leaseMs: number; runForMs: number } | undefined;
  readonly result?: CommandResult | undefined;
  /** A new waiting time, from now on. */
  readonly expiresInMs?: number | undefined;
  readonly deadLetterId?: string | undefined;
}

/** Puts an event to the machine for a locked command. Undefined when it is refused. */
export function transitionOf(row: LockedCommand, happening: Happening): Transition | undefined {
  const decision = decide(lifeOf(row), happening);
  return decision.kind === "moved" ? decision.life : undefined;
}

const writeText = `WITH given AS (
    SELECT * FROM json_to_recordset($1::json) AS g(tenant_id text, id uuid, from_attempt integer, from_state text,
      state text, desired text, reason text, effect text, effect_carried text, attempt integer, requeues integer,
      abandons integer, late boolean, restart boolean, dispatched boolean, claimed boolean, ended boolean,
      agent_id uuid, generation integer, nonce uuid, lease_ms bigint, run_for_ms bigint, expires_in_ms bigint,
      exit_code integer, run_ms bigint, result text)
  ), changed AS (
    UPDATE commands c SET
      state = g.state, desired = g.desired, reason = g.reason, effect = g.effect,
      effect_carried = g.effect_carried, attempt = g.attempt, requeues = g.requeues, abandons = g.abandons,
      late = g.late,
      expires_at = coalesce(now() + g.expires_in_ms * interval '1 ms', c.expires_at),
      dispatched_at = CASE WHEN g.restart THEN NULL WHEN g.dispatched THEN now() ELSE c.dispatched_at END,
      started_at = CASE WHEN g.restart THEN NULL WHEN g.claimed THEN now() ELSE c.started_at END,
      lease_renewed_at = CASE WHEN g.state <> 'running' THEN NULL WHEN g.claimed THEN now()
        ELSE c.lease_renewed_at END,
      lease_expires_at = CASE WHEN g.state <> 'running' THEN NULL
        WHEN g.claimed THEN now() + g.lease_ms * interval '1 ms' ELSE c.lease_expires_at END,
      run_until = CASE WHEN g.restart THEN NULL
        WHEN g.claimed THEN now() + g.run_for_ms * interval '1 ms' ELSE c.run_until END,
      cancel_requested_at = CASE WHEN g.desired = 'run' THEN NULL
        ELSE coalesce(c.cancel_requested_at, now()) END,
      finished_at = CASE WHEN g.ended THEN coalesce(c.finished_at, now()) END,
      agent_id = CASE WHEN g.restart THEN NULL ELSE coalesce(g.agent_id, c.agent_id) END,
      generation = CASE WHEN g.restart THEN NULL ELSE coalesce(g.generation, c.generation) END,
      claim_nonce = CASE WHEN g.restart THEN NULL ELSE coalesce(g.nonce, c.claim_nonce) END,
      exit_code = CASE WHEN g.restart THEN NULL ELSE coalesce(g.exit_code, c.exit_code) END,
      run_ms = CASE WHEN g.restart THEN NULL ELSE coalesce(g.run_ms, c.run_ms) END,
      result = CASE WHEN g.restart THEN NULL ELSE coalesce(g.result, c.result) END
    FROM given g
    WHERE c.tenant_id = g.tenant_id AND c.id = g.id AND c.attempt = g.from_attempt AND c.state = g.from_state
    RETURNING c.tenant_id, c.id
  ), logged AS (
    INSERT INTO command_events
      (tenant_id, command_id, from_state, to_state, attempt, reason, rule, actor, details)
    SELECT e.tenant_id, e.id, e.from_state, e.to_state, e.attempt, e.reason, e.rule, e.actor, e.details
    FROM json_to_recordset($2::json) AS e(tenant_id text, id uuid, from_state text, to_state text,
      attempt integer, reason text, rule text, actor text, details text)
  )
  SELECT (SELECT count(*) FROM changed)::integer AS changed, now() AS at`;

/**
 * Writes transitions of locked commands with their history, rings the doorbells and says the events: all in this
 * transaction. Each is a compare-and-set on attempt and state; one that does not hit is a defect, and throws.
 */
export async function writeTransitions(tx: Tx, written: readonly Written[]): Promise<void> {
  if (written.length === 0) return;
  const values = [JSON.stringify(written.map(givenOf)), JSON.stringify(written.flatMap(historyOf))];
  const [answer] = await tx.query<{ changed: number; at: Date }>(writeText, values, {
    name: "vmops_write_transitions",
  });
  if (answer?.changed !== written.length) {
    throw new Error(`of ${written.length} transitions only ${answer?.changed ?? 0} found their command`);
  }
  for (const one of written) tx.publish(...messagesOf(one, answer.at));
}

function givenOf(one: Written): Record<string, unknown> {
  const { row, life, claim, result } = one;
  const restart = life.attempt > row.attempt;
  return {
    tenant_id: row.tenant_id,
    id: row.id,
    from_attempt: row.attempt,
    from_state: row.state,
    state: life.state,
    desired: life.desired,
    reason: life.reason,
    effect: life.effect,
    effect_carried: life.effectCarried,
    attempt: life.attempt,
    requeues: life.requeues,
    abandons: abandonsOf(one),
    late: life.late,
    restart,
    dispatched: life.through === "dispatched" || (life.state === "dispatched" && row.state !== "dispatched"),
    claimed: claim !== undefined,
    ended: isTerminal(life.state),
    agent_id: claim?.agentId ?? null,
    generation: claim?.generation ?? null,
    nonce: claim?.nonce ?? null,
    lease_ms: claim?.leaseMs ?? null,
    run_for_ms: claim?.runForMs ?? null,
    expires_in_ms: one.expiresInMs ?? null,
    exit_code: result?.exit_code ?? null,
    run_ms: result?.run_ms ?? null,
    // JSON within JSON: what it holds (\u0000, lone surrogates) is escaped twice and never seen by the server.
    result: result === undefined || restart ? null : JSON.stringify(result),
  };
}

function abandonsOf({ row, life }: Written): number {
  if (life.rule === "replay") return 0;
  return row.abandons + (life.rule === "result_abandoned" ? 1 : 0);
}

function historyOf(one: Written): Record<string, unknown>[] {
  const { row, life } = one;
  const base = { tenant_id: row.tenant_id, id: row.id, actor: one.actor };
  const last = {
    ...base,
    from_state: life.through ?? row.state,
    to_state: life.state,
    attempt: life.attempt,
    reason: life.late && !row.late ? "late_result" : life.reason,
    rule: one.rule ?? life.rule,
    details: JSON.stringify(one.details ?? {}),
  };
  if (life.through === null) return [last];
  const first = { from_state: row.state, to_state: life.through, attempt: row.attempt };
  return [
    { ...base, ...first, reason: "doorbell_confirmed", rule: "doorbell_confirmed", details: "{}" },
    last,
  ];
}

function messagesOf(one: Written, at: Date) {
  const { row, life } = one;
  const messages = eventsOf({
    row,
    life,
    at,
    agentId: one.claim?.agentId,
    result: one.result,
    deadLetterId: one.deadLetterId,
  });
  const waitMs = one.expiresInMs ?? row.expires_at.getTime() - at.getTime();
  if (life.attempt > row.attempt && life.state === "queued") {
    messages.push(doorbell(ringingOf(row, row.epoch, life.attempt, waitMs), "run"));
  }
  if (life.state === "running" && life.desired === "cancel" && row.desired === "run") {
    messages.push(doorbell(ringingOf(row, row.epoch, row.attempt, waitMs), "cancel"));
  }
  return messages;
}

export interface Orphan {
  readonly tenantId: string;
  readonly commandId: string;
  readonly attempt: number;
  readonly agentId: string;
  readonly outcome: string;
  readonly reason: string;
  readonly effect: Effect;
  readonly result: CommandResult;
}

/** Keeps results of overtaken attempts; one that was kept before stays as it was. Answers how many were new. */
export async function keepOrphans(tx: Tx, orphans: readonly Orphan[]): Promise<number> {
  if (orphans.length === 0) return 0;
  const rows = orphans.map((orphan) => ({
    tenant_id: orphan.tenantId,
    command_id: orphan.commandId,
    attempt: orphan.attempt,
    agent_id: orphan.agentId,
    outcome: orphan.outcome,
    reason: orphan.reason,
    effect: orphan.effect,
    result: JSON.stringify(orphan.result),
  }));
  return tx.execute(
    `INSERT INTO orphan_results (tenant_id, command_id, attempt, agent_id, outcome, reason, effect, result)
     SELECT * FROM json_to_recordset($1::json) AS o(tenant_id text, command_id uuid, attempt integer, agent_id uuid,
       outcome text, reason text, effect text, result text)
     ON CONFLICT DO NOTHING`,
    [JSON.stringify(rows)],
  );
}
