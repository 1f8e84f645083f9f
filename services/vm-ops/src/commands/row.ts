import type { ActionName, Lane } from "@muster/contracts/actions";
import { commandResult } from "@muster/contracts/commands";
import type { CommandResult, CommandState, CommandSummary, Effect, Reason } from "@muster/contracts/commands";
import type { WorkContext } from "@muster/contracts/envelope";
import { z } from "zod";
import type { Life } from "./machine.ts";

/** A command as its table has it, without params and result. */
export interface CommandRow {
  readonly tenant_id: string;
  readonly id: string;
  readonly vm_uuid: string;
  readonly seq: number;
  readonly action: ActionName;
  readonly lane: Lane;
  readonly payload_sha256: string;
  readonly state: CommandState;
  readonly desired: "run" | "cancel";
  readonly reason: Reason;
  readonly effect: Effect;
  readonly effect_carried: Effect;
  readonly attempt: number;
  readonly requeues: number;
  readonly abandons: number;
  readonly late: boolean;
  readonly timeout_ms: number;
  readonly expires_in_ms: number;
  readonly environment: string | null;
  readonly project_id: string | null;
  readonly requested_by: string;
  readonly correlation_id: string;
  readonly traceparent: string | null;
  readonly accepted_at: Date;
  readonly expires_at: Date;
  readonly dispatched_at: Date | null;
  readonly started_at: Date | null;
  readonly run_until: Date | null;
  readonly cancel_requested_at: Date | null;
  readonly finished_at: Date | null;
  readonly agent_id: string | null;
  readonly claim_nonce: string | null;
  readonly exit_code: number | null;
  readonly result_stored: boolean;
  /** The database's clock when the row was read. */
  readonly now: Date;
}

const columns = [
  ...["tenant_id", "id", "vm_uuid", "seq", "action", "lane", "payload_sha256", "state", "desired", "reason"],
  ...["effect", "effect_carried", "attempt", "requeues", "abandons", "late", "timeout_ms", "expires_in_ms"],
  ...["environment", "project_id", "requested_by", "correlation_id", "traceparent", "accepted_at"],
  ...["expires_at", "dispatched_at", "started_at", "run_until", "cancel_requested_at", "finished_at"],
  ...["agent_id", "claim_nonce", "exit_code"],
];

/** Columns of CommandRow, of the table or alias `c`. */
export const rowColumns = `${columns.map((name) => `c.${name}`).join(", ")},
  c.result IS NOT NULL AS result_stored, now() AS now`;

export function lifeOf(row: CommandRow): Life {
  return {
    state: row.state,
    attempt: row.attempt,
    requeues: row.requeues,
    desired: row.desired,
    reason: row.reason,
    effect: row.effect,
    effectCarried: row.effect_carried,
    late: row.late,
    resultStored: row.result_stored,
  };
}

/** What every message about this command runs in. */
export function contextOf(
  row: Pick<CommandRow, "correlation_id" | "traceparent" | "tenant_id">,
): WorkContext {
  return {
    correlationId: row.correlation_id,
    tenantId: row.tenant_id,
    ...(row.traceparent === null ? {} : { traceparent: row.traceparent }),
  };
}

const iso = (at: Date | null): string | null => at?.toISOString() ?? null;

export function summaryOf(row: CommandRow): CommandSummary {
  return {
    id: row.id,
    vm_uuid: row.vm_uuid,
    action: row.action,
    lane: row.lane,
    state: row.state,
    desired: row.desired,
    reason: row.reason,
    effect: row.effect,
    attempt: row.attempt,
    requeues: row.requeues,
    late: row.late,
    exit_code: row.exit_code,
    environment: row.environment,
    project_id: row.project_id,
    requested_by: row.requested_by,
    correlation_id: row.correlation_id,
    timeout_seconds: row.timeout_ms / 1_000,
    accepted_at: row.accepted_at.toISOString(),
    expires_at: row.expires_at.toISOString(),
    dispatched_at: iso(row.dispatched_at),
    started_at: iso(row.started_at),
    finished_at: iso(row.finished_at),
    agent_id: row.agent_id,
  };
}

/** A stored result was validated when it came in; one that no longer fits is a defect and says so. */
export function resultOf(text: string | null): CommandResult | null {
  return text === null ? null : commandResult.parse(JSON.parse(text));
}

const anyParams = z.record(z.string(), z.unknown());

/** Params as they are stored: they were held against their action when they were accepted. */
export const paramsOf = (text: string): Record<string, unknown> => anyParams.parse(JSON.parse(text));
