import type { agentReport } from "@muster/contracts/agents";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { ReportItem } from "@muster/broker/broker";
import type { Database, Tx } from "@muster/database/database";
import { keepOrphans, keyOf, lockCommands, transitionOf, writeTransitions } from "../commands/store.ts";
import type { CommandKey, LockedCommand, Orphan, Written } from "../commands/store.ts";
import type { VmOpsMetrics } from "../metrics.ts";
import type { Hints } from "../output/hints.ts";
import type { ClaimTokens } from "./claim-tokens.ts";
import type { LastSeen } from "./last-seen.ts";
import { eventOfResult } from "./result-event.ts";
import { agentKeyOf, loadSessions, sessionFault } from "./sessions.ts";
import { renewLeases } from "./store-leases.ts";

type Item = ReportItem<typeof agentReport>;
type Reported = PayloadOf<typeof agentReport>["items"][number];
type Result = Extract<Reported, { type: "result" }>;
type Answer = ReplyInputOf<typeof agentReport>["items"][number];

export interface ReportParts {
  readonly database: Pick<Database, "transaction">;
  readonly tokens: ClaimTokens;
  readonly lastSeen: LastSeen;
  readonly metrics: VmOpsMetrics;
  readonly hints: Hints;
  readonly leaseMs: number;
  /** 0 to 1, for spreading renewals. */
  readonly random?: () => number;
}

/** What one transaction over many reports has gathered. */
class Desk {
  readonly written = new Map<string, Written>();
  readonly renewed = new Map<string, CommandKey>();
  readonly orphans: Orphan[] = [];
  readonly stored: { outcome: string; as: "final" | "late" | "duplicate" | "orphan" }[] = [];
  stale: string[] = [];
}

/** Progress renews leases and results end commands: many agents' reports in one transaction, each as if alone. */
export async function takeReports(
  parts: ReportParts,
  items: readonly Item[],
): Promise<readonly (ReplyInputOf<typeof agentReport> | MusterError)[]> {
  const { answers, desk } = await parts.database.transaction("system", (tx) => takeAll(tx, parts, items));
  observe(parts, desk);
  answers.forEach((answer, at) => {
    const item = items[at];
    if (item !== undefined && !(answer instanceof MusterError)) {
      parts.lastSeen.touch(item.context, item.payload.session.generation);
    }
  });
  return answers;
}

async function takeAll(tx: Tx, parts: ReportParts, items: readonly Item[]) {
  const sessions = await loadSessions(tx, items.map(({ context }) => context)); // prettier-ignore
  const faults = items.map(({ context, payload }) =>
    sessionFault(sessions.get(agentKeyOf(context)), payload.session, context.epoch),
  );
  const keys = items
    .filter((_, at) => faults[at] === undefined)
    .flatMap(({ context, payload }) =>
      payload.items.map(({ command_id }) => ({ tenantId: context.tenantId, id: command_id })),
    );
  const rows = keys.length === 0 ? new Map<string, LockedCommand>() : await lockCommands(tx, keys);
  const desk = new Desk();
  const answers = items.map((item, at): ReplyInputOf<typeof agentReport> | MusterError => {
    const fault = faults[at];
    if (fault !== undefined) return fault;
    return { items: item.payload.items.map((reported) => takeOne(parts, desk, item, reported, rows)) };
  });
  await writeTransitions(tx, [...desk.written.values()]);
  for (const key of desk.written.keys()) desk.renewed.delete(key);
  await renewLeases(tx, [...desk.renewed.values()], parts.leaseMs);
  await keepOrphans(tx, desk.orphans);
  return { answers, desk };
}

function takeOne(
  parts: ReportParts,
  desk: Desk,
  { context }: Item,
  reported: Reported,
  rows: ReadonlyMap<string, LockedCommand>,
): Answer {
  const { command_id, attempt } = reported;
  const commandKey = { tenantId: context.tenantId, id: command_id };
  const row = rows.get(keyOf(commandKey));
  const nonce = parts.tokens.nonceOf(reported.token, command_id, attempt);
  if (row === undefined || nonce === undefined) return refused(desk, reported);
  const current = row.attempt === attempt && row.claim_nonce === nonce && row.agent_id === context.agentId;
  if (reported.type === "progress") {
    return current ? renew(parts, desk, row, reported) : refused(desk, reported);
  }
  const as = current
    ? settle(desk, row, reported, context.agentId)
    : keepOrphan(desk, commandKey, reported, context.agentId);
  desk.stored.push({ outcome: reported.outcome, as });
  return { outcome: "stored", command_id, attempt, as };
}

function refused(desk: Desk, { type, command_id, attempt }: Reported): Answer {
  desk.stale.push(type);
  return { outcome: "refused", command_id, attempt, code: "STALE_TOKEN" };
}

/** What was judged without a result may still be corrected, so its agent is told to go on, or to stop. */
function renew(parts: ReportParts, desk: Desk, row: LockedCommand, reported: Reported): Answer {
  if (row.result_stored) return refused(desk, reported);
  if (row.state === "running") {
    desk.renewed.set(keyOf({ tenantId: row.tenant_id, id: row.id }), { tenantId: row.tenant_id, id: row.id });
  }
  const jitter = 0.8 + 0.4 * (parts.random ?? Math.random)();
  return {
    outcome: "renewed",
    command_id: row.id,
    attempt: row.attempt,
    desired: row.desired,
    lease_ms: parts.leaseMs,
    next_renew_ms: Math.round((parts.leaseMs / 3) * jitter),
  };
}

function settle(
  desk: Desk,
  row: LockedCommand,
  reported: Result,
  agentId: string,
): "final" | "late" | "duplicate" | "orphan" {
  const key = keyOf({ tenantId: row.tenant_id, id: row.id });
  if (row.result_stored || desk.written.has(key)) return "duplicate";
  const happening = eventOfResult(reported, row);
  const life = transitionOf(row, happening);
  if (life === undefined) return keepOrphan(desk, { tenantId: row.tenant_id, id: row.id }, reported, agentId);
  desk.written.set(key, {
    row,
    life,
    actor: `agent:${agentId}`,
    details: { outcome: reported.outcome, reason: reported.reason, effect: reported.effect },
    result: reported.result,
  });
  return life.late ? "late" : "final";
}

/** A result that changes nothing any more. That an attempt never started needs no keeping. */
function keepOrphan(desk: Desk, key: CommandKey, reported: Result, agentId: string): "duplicate" | "orphan" {
  if (reported.outcome === "abandoned") return "duplicate";
  const { attempt, outcome, reason, effect, result } = reported;
  desk.orphans.push({
    tenantId: key.tenantId,
    commandId: key.id,
    attempt,
    agentId,
    outcome,
    reason,
    effect,
    result,
  });
  return "orphan";
}

function observe({ metrics, hints }: ReportParts, desk: Desk): void {
  for (const report of desk.stale) metrics.staleReports.inc({ report });
  for (const { outcome, as } of desk.stored) metrics.results.inc({ outcome, stored_as: as });
  for (const { row, life } of desk.written.values()) {
    metrics.transitions.inc({ from: row.state, to: life.state, reason: life.reason });
    hints.changed(row.id);
    if (row.started_at !== null && !life.late) {
      metrics.ackToTerminal.observe(Math.max(0, row.now.getTime() - row.started_at.getTime()) / 1_000);
    }
  }
}
