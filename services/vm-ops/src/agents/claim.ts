import type { agentClaim } from "@muster/contracts/agents";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { type MusterError } from "@muster/contracts/errors";
import type { ReportItem } from "@muster/broker/broker";
import type { Database, Tx } from "@muster/database/database";
import { keyOf, transitionOf, writeTransitions } from "../commands/store.ts";
import type { Written } from "../commands/store.ts";
import { paramsOf } from "../commands/row.ts";
import type { VmOpsMetrics } from "../metrics.ts";
import type { Hints } from "../output/hints.ts";
import { judgeClaim } from "./claim-policy.ts";
import type { Claim } from "./claim-policy.ts";
import type { ClaimTokens } from "./claim-tokens.ts";
import type { LastSeen } from "./last-seen.ts";
import { agentKeyOf, loadSessions, markUsed, sessionFault } from "./sessions.ts";
import { doorbellsOf, loadParams, lockForClaims } from "./store-claim.ts";
import type { ClaimRow } from "./store-claim.ts";
import { renewLeases } from "./store-leases.ts";

type Item = ReportItem<typeof agentClaim>;
type Outcome = ReplyInputOf<typeof agentClaim>["outcomes"][number];
type Asked = PayloadOf<typeof agentClaim>["claims"][number];

export interface ClaimParts {
  readonly database: Pick<Database, "transaction">;
  readonly tokens: ClaimTokens;
  readonly lastSeen: LastSeen;
  readonly metrics: VmOpsMetrics;
  readonly hints: Hints;
  readonly leaseMs: number;
}

/** Params that one reply carries; what does not fit is asked for again. */
const replyParamsBytesMax = 4 * 1024 * 1024;

interface Pending {
  readonly item: Item;
  readonly asked: Asked;
  readonly claim: Claim;
  readonly key: string;
  row: ClaimRow | undefined;
  /** Which command of its VM must start first. */
  first?: string | undefined;
  outcome: "grant" | "grant_again" | Extract<Outcome, { outcome: "denied" }>;
}

/** Grants or denies, many agents' claims in one transaction. */
export async function claimCommands(
  parts: ClaimParts,
  items: readonly Item[],
): Promise<readonly (ReplyInputOf<typeof agentClaim> | MusterError)[]> {
  const { faults, pending, params } = await parts.database.transaction("system", (tx) =>
    claimAll(tx, parts, items),
  );
  observe(parts, pending);
  const outcomes = new Map<Item, Outcome[]>(items.map((item) => [item, []]));
  for (const one of pending) outcomes.get(one.item)?.push(outcomeOf(parts, one, params));
  return items.map((item, at) => {
    const fault = faults[at];
    if (fault !== undefined) return fault;
    parts.lastSeen.touch(item.context, item.payload.session.generation);
    return { outcomes: outcomes.get(item) ?? [] };
  });
}

async function claimAll(tx: Tx, parts: ClaimParts, items: readonly Item[]) {
  const sessions = await loadSessions(tx, items.map(({ context }) => context)); // prettier-ignore
  const faults = items.map(({ context, payload }) =>
    sessionFault(sessions.get(agentKeyOf(context)), payload.session, context.epoch),
  );
  const pending = items.filter((_, at) => faults[at] === undefined).flatMap(pendingOf);
  if (pending.length === 0) return { faults, pending, params: new Map<string, string>() };
  await markUsed(
    tx,
    items.flatMap(({ context }, at) =>
      faults[at] === undefined ? (sessions.get(agentKeyOf(context)) ?? []) : [],
    ),
  );
  await judgeAll(tx, pending);
  await ringFirst(tx, pending);
  const granted = pending.filter((one) => one.outcome === "grant");
  await writeTransitions(tx, granted.flatMap((one) => grantOf(one, parts.leaseMs))); // prettier-ignore
  const again = distinct(pending.filter((one) => one.outcome === "grant_again"));
  await renewLeases(tx, again.map(keyFor), parts.leaseMs); // prettier-ignore
  const large = [...granted, ...again].filter((one) => one.row?.params === null);
  return { faults, pending, params: await loadParams(tx, large.map(keyFor)) }; // prettier-ignore
}

function pendingOf(item: Item): Pending[] {
  const { tenantId, agentId } = item.context;
  return item.payload.claims.map((asked) => ({
    item,
    asked,
    key: keyOf({ tenantId, id: asked.command_id }),
    claim: {
      agentId,
      commandId: asked.command_id,
      vmUuid: asked.vm_uuid,
      attempt: asked.attempt,
      epoch: asked.epoch,
      nonce: asked.nonce,
    },
    row: undefined,
    outcome: {
      outcome: "denied",
      command_id: asked.command_id,
      attempt: asked.attempt,
      reason: "superseded",
    },
  }));
}

const keyFor = (one: Pending) => ({ tenantId: one.item.context.tenantId, id: one.asked.command_id });
const vmKeyFor = (one: Pending) => ({ tenantId: one.item.context.tenantId, vmUuid: one.asked.vm_uuid });

function distinct(pending: readonly Pending[]): Pending[] {
  return [...new Map(pending.map((one) => [one.key, one])).values()];
}

/** Judges in the order of acceptance, so that claims of one VM that came together may all be granted. */
async function judgeAll(tx: Tx, pending: readonly Pending[]): Promise<void> {
  const unique = distinct(pending);
  const { vms, commands } = await lockForClaims(tx, unique.map(vmKeyFor), unique.map(keyFor)); // prettier-ignore
  const bytesLeft = new Map<Item, number>();
  const grantedWith = new Map<string, string>();
  for (const one of pending) one.row = commands.get(one.key);
  for (const one of [...pending].sort((a, b) => (a.row?.seq ?? 0) - (b.row?.seq ?? 0))) {
    const { row } = one;
    const left = bytesLeft.get(one.item) ?? replyParamsBytesMax;
    const before = grantedWith.get(one.key);
    const command = row && {
      vmUuid: row.vm_uuid,
      lane: row.lane,
      state: before === undefined ? row.state : ("running" as const),
      attempt: row.attempt,
      agentId: before === undefined ? row.agent_id : one.claim.agentId,
      nonce: before ?? row.claim_nonce,
      expired: row.expired,
      payloadBytes: row.payload_bytes,
    };
    const vm = vms.get(`${one.item.context.tenantId}/${one.asked.vm_uuid}`);
    const verdict = judgeClaim(one.claim, command, vm, left);
    if (verdict.kind === "deny") {
      one.first = verdict.first;
      one.outcome = {
        ...{ outcome: "denied", command_id: one.asked.command_id, attempt: one.asked.attempt },
        reason: verdict.reason,
        ...(verdict.retryAfterMs === undefined ? {} : { retry_after_ms: verdict.retryAfterMs }),
      };
      continue;
    }
    one.outcome = verdict.kind;
    bytesLeft.set(one.item, left - (row?.payload_bytes ?? 0));
    if (verdict.kind === "grant") grantedWith.set(one.key, one.claim.nonce);
  }
}

/** Whoever must wait for a command is told its doorbell: had that been lost, the VM would stand still. */
async function ringFirst(tx: Tx, pending: readonly Pending[]): Promise<void> {
  const keys = pending.flatMap(({ item, first }) =>
    first === undefined ? [] : [{ tenantId: item.context.tenantId, id: first }],
  );
  const doorbells = await doorbellsOf(tx, keys);
  for (const one of pending) {
    if (one.first === undefined || typeof one.outcome === "string") continue;
    const first = doorbells.get(keyOf({ tenantId: one.item.context.tenantId, id: one.first }));
    if (first !== undefined) one.outcome = { ...one.outcome, first };
  }
}

function grantOf(one: Pending, leaseMs: number): Written[] {
  const { row, claim, item } = one;
  if (row === undefined) return [];
  const life = transitionOf(row, { event: "claim_granted" });
  if (life === undefined) throw new Error(`the machine refuses a claim in state ${row.state}`);
  const generation = item.payload.session.generation;
  return [
    {
      row,
      life,
      actor: `agent:${claim.agentId}`,
      details: { generation, lease_ms: leaseMs },
      // One lease beyond its timeout: the agent ends it by itself, and says so.
      claim: {
        ...{ agentId: claim.agentId, generation, nonce: claim.nonce, leaseMs },
        runForMs: row.timeout_ms + leaseMs,
      },
    },
  ];
}

function outcomeOf(parts: ClaimParts, one: Pending, params: ReadonlyMap<string, string>): Outcome {
  const { row, outcome, claim } = one;
  if (typeof outcome !== "string") return outcome;
  const text = row?.params ?? params.get(one.key);
  if (row === undefined || text === undefined) throw new Error("granted without a command");
  return {
    outcome: "granted",
    command_id: row.id,
    attempt: row.attempt,
    token: parts.tokens.make(row.id, row.attempt, claim.nonce),
    lease_ms: parts.leaseMs,
    timeout_ms: row.timeout_ms,
    action: row.action,
    params: paramsOf(text),
    correlation_id: row.correlation_id,
  };
}

function observe({ metrics, hints }: ClaimParts, pending: readonly Pending[]): void {
  for (const { outcome, row } of pending) {
    const label = typeof outcome === "string" ? outcome : outcome.reason;
    metrics.claims.inc({ outcome: typeof outcome === "string" ? "granted" : "denied", reason: label });
    if (outcome !== "grant" || row === undefined) continue;
    hints.changed(row.id);
    metrics.transitions.inc({ from: row.state, to: "running", reason: "claimed" });
    const heardMs = row.dispatched_at === null ? 0 : row.now.getTime() - row.dispatched_at.getTime();
    metrics.dispatchToAck.observe(Math.max(0, heardMs) / 1_000);
  }
}
