import type { ReportItem } from "@muster/broker/broker";
import type { agentHeartbeat } from "@muster/contracts/agents";
import type { ReplyOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { tenantId as tenantIdSchema, uuid } from "@muster/contracts/ids";
import type { Database, Tx } from "@muster/database/database";
import type { Metrics } from "@muster/telemetry/metrics";
import { lostEvent, recoveredEvent } from "./events.ts";
import { insertNew, lockKnown, updateKnown } from "./store.ts";
import type { HeartbeatRow, KnownRow } from "./store.ts";
import { afterHeartbeat } from "./transition.ts";

type Item = ReportItem<typeof agentHeartbeat>;
type Reply = ReplyOf<typeof agentHeartbeat>;

export interface HeartbeatParts {
  readonly database: Database;
  readonly nextHeartbeatMs: () => number;
  readonly metrics: Metrics;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

/** What no clock is wrong by; a number beyond says only that it is absurd. */
const skewMaxMs = 10 * 365 * 86_400_000;

/** Notes who lives. One transaction for many heartbeats; presence and its events stand or fall together. */
export function hearing(parts: HeartbeatParts) {
  const skew = parts.metrics.histogram({
    name: "muster_agent_clock_skew_seconds",
    help: "How far agents' clocks are off, either way, when their heartbeats arrive",
    buckets: [0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 3_600, 86_400],
  });
  const outdated = parts.metrics.counter({
    name: "muster_heartbeats_unheeded_total",
    help: "Heartbeats of older sessions, or after the session's last word",
  });
  return async (items: readonly Item[]): Promise<readonly (Reply | MusterError)[]> => {
    const nowMs = parts.now();
    const known = items.map(({ context }) => isNamed(context.tenantId, context.agentId));
    const rows = newestOfEach(items.filter((_, at) => known[at]).map((item) => rowOf(item, nowMs)));
    for (const row of rows) skew.observe(Math.abs(row.clockSkewMs) / 1_000);
    let newest: ReadonlyMap<string, number> = new Map();
    if (rows.length > 0) {
      const noted = await parts.database.transaction("system", (tx) => note(tx, rows, new Date(nowMs)));
      outdated.inc(noted.unheeded);
      newest = noted.newest;
    }
    const reply = { next_heartbeat_ms: parts.nextHeartbeatMs() };
    const unnamed = new MusterError("VALIDATION_FAILED", "the routing key names no tenant or no agent");
    return items.map(({ payload, context }, at) => {
      if (known[at] !== true) return unnamed;
      const current = newest.get(keyOf(context.tenantId, context.agentId)) ?? 0;
      return payload.session.generation < current ? new MusterError("AGENT_SUPERSEDED") : reply;
    });
  };
}

function rowOf({ payload, context }: Item, nowMs: number): HeartbeatRow {
  const skewMs = Math.max(-skewMaxMs, Math.min(skewMaxMs, payload.clock_unix_ms - nowMs));
  return { tenantId: context.tenantId, agentId: context.agentId, beat: payload, clockSkewMs: skewMs };
}

const isNamed = (tenant: string, agent: string): boolean =>
  tenantIdSchema.safeParse(tenant).success && uuid.safeParse(agent).success;

const keyOf = (tenantId: string, agentId: string): string => `${tenantId}/${agentId}`;

/** Of several in one batch the last of the newest session speaks. */
function newestOfEach(rows: readonly HeartbeatRow[]): HeartbeatRow[] {
  const newest = new Map<string, HeartbeatRow>();
  for (const row of rows) {
    const key = keyOf(row.tenantId, row.agentId);
    const before = newest.get(key);
    const older = before !== undefined && row.beat.session.generation < before.beat.session.generation;
    if (!older) newest.set(key, row);
  }
  return [...newest.values()];
}

interface Noted {
  /** Heartbeats that said nothing. */
  readonly unheeded: number;
  /** The newest generation of each agent that was heard. */
  readonly newest: ReadonlyMap<string, number>;
}

async function note(tx: Tx, rows: readonly HeartbeatRow[], now: Date): Promise<Noted> {
  // New agents first: whoever is not new is there to be locked, even if another process has just written it down.
  const known = await lockKnown(tx, rows);
  const knownByKey = byKey(known);
  const strangers = rows.filter((row) => !knownByKey.has(keyOf(row.tenantId, row.agentId)));
  const added = strangers.length === 0 ? [] : await insertNew(tx, strangers);
  const addedKeys = new Set(added.map((row) => keyOf(row.tenant_id, row.agent_id)));
  const raced = strangers.filter((row) => !addedKeys.has(keyOf(row.tenantId, row.agentId)));
  if (raced.length > 0)
    for (const row of await lockKnown(tx, raced)) knownByKey.set(keyOf(row.tenant_id, row.agent_id), row);

  const heeded: HeartbeatRow[] = [];
  const newest = new Map<string, number>();
  let unheeded = 0;
  for (const row of rows) {
    const key = keyOf(row.tenantId, row.agentId);
    const before = knownByKey.get(key);
    const heard = { generation: row.beat.session.generation, stopping: row.beat.stopping };
    const after = afterHeartbeat(before, heard);
    newest.set(key, Math.max(heard.generation, before?.generation ?? 0));
    if (!after.heed) {
      unheeded += 1;
      continue;
    }
    if (!addedKeys.has(key)) heeded.push(row);
    const about = { tenantId: row.tenantId, agentId: row.agentId, generation: heard.generation, at: now };
    if (after.event === "recovered") tx.publish(recoveredEvent(about));
    if (after.event === "stopped") {
      tx.publish(lostEvent({ ...about, kind: "stopped", lastSeenAt: before?.last_seen_at ?? now }));
    }
  }
  await updateKnown(tx, heeded);
  return { unheeded, newest };
}

const byKey = (rows: readonly KnownRow[]): Map<string, KnownRow> =>
  new Map(rows.map((row) => [keyOf(row.tenant_id, row.agent_id), row]));
