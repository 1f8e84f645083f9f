import type { PayloadOf } from "@muster/contracts/define";
import type { agentHeartbeat } from "@muster/contracts/agents";
import { uuidv7 } from "@muster/contracts/ids";
import type { Tx } from "@muster/database/database";
import { storableText } from "../dead-letters/storable.ts";
import type { PresenceState } from "./transition.ts";

export interface HeartbeatRow {
  readonly tenantId: string;
  readonly agentId: string;
  readonly beat: PayloadOf<typeof agentHeartbeat>;
  readonly clockSkewMs: number;
}

export interface KnownRow {
  readonly tenant_id: string;
  readonly agent_id: string;
  readonly state: PresenceState;
  readonly generation: number;
  readonly last_seen_at: Date;
}

const keyColumns = `FROM unnest($1::text[], $2::uuid[]) AS k(tenant_id, agent_id)`;

/**
 * The agents of these heartbeats as they are known, locked in one order. Those never heard of are absent; no other
 * transaction can add them until this one ends, since their keys are taken first by `insertNew`.
 */
export function lockKnown(tx: Tx, rows: readonly HeartbeatRow[]): Promise<KnownRow[]> {
  return tx.query<KnownRow>(
    `SELECT p.tenant_id, p.agent_id, p.state, p.generation, p.last_seen_at
     ${keyColumns} JOIN presence p USING (tenant_id, agent_id)
     ORDER BY p.tenant_id, p.agent_id FOR UPDATE OF p`,
    keysOf(rows),
  );
}

/** Writes agents down that were never heard of; answers those that nobody else wrote down before. */
export function insertNew(
  tx: Tx,
  rows: readonly HeartbeatRow[],
): Promise<{ tenant_id: string; agent_id: string }[]> {
  return tx.query(
    `INSERT INTO presence (id, tenant_id, agent_id, state, lost_at, generation, session_id, version, drivers,
       vm_uuids, running, load_1m, clock_skew_ms, journal_writable, journal_double_starts, journal_unacknowledged)
     SELECT b.id, b.tenant_id, b.agent_id, b.state, CASE b.state WHEN 'stopped' THEN clock_timestamp() END,
       b.generation, b.session_id, b.version, b.drivers, b.vm_uuids, b.running, b.load_1m, b.clock_skew_ms,
       b.journal_writable, b.journal_double_starts, b.journal_unacknowledged
     FROM ${beats} ORDER BY b.tenant_id, b.agent_id
     ON CONFLICT (tenant_id, agent_id) DO NOTHING RETURNING tenant_id, agent_id`,
    [beatsJson(rows)],
  );
}

/** Writes down what agents say that are known already, and locked. */
export async function updateKnown(tx: Tx, rows: readonly HeartbeatRow[]): Promise<void> {
  if (rows.length === 0) return;
  await tx.execute(
    `UPDATE presence p SET state = b.state,
       lost_at = CASE b.state WHEN 'stopped' THEN coalesce(p.lost_at, clock_timestamp()) END,
       generation = b.generation, session_id = b.session_id, version = b.version, drivers = b.drivers,
       vm_uuids = b.vm_uuids, running = b.running, load_1m = b.load_1m, clock_skew_ms = b.clock_skew_ms,
       journal_writable = b.journal_writable, journal_double_starts = b.journal_double_starts,
       journal_unacknowledged = b.journal_unacknowledged, last_seen_at = clock_timestamp()
     FROM ${beats} WHERE p.tenant_id = b.tenant_id AND p.agent_id = b.agent_id`,
    [beatsJson(rows)],
  );
}

const beats = `jsonb_to_recordset($1::jsonb) AS b(id uuid, tenant_id text, agent_id uuid, state text,
  generation bigint, session_id uuid, version text, drivers jsonb, vm_uuids jsonb, running integer,
  load_1m double precision, clock_skew_ms bigint, journal_writable boolean, journal_double_starts bigint,
  journal_unacknowledged bigint)`;

function beatsJson(rows: readonly HeartbeatRow[]): string {
  return JSON.stringify(
    rows.map(({ tenantId, agentId, beat, clockSkewMs }) => ({
      id: uuidv7(),
      tenant_id: tenantId,
      agent_id: agentId,
      state: beat.stopping ? "stopped" : "online",
      generation: beat.session.generation,
      session_id: beat.session.session_id,
      version: storableText(beat.version, 32),
      drivers: beat.drivers.map((driver) => storableText(driver, 32)),
      vm_uuids: beat.vm_uuids,
      running: beat.running.length,
      load_1m: beat.load_1m,
      clock_skew_ms: clockSkewMs,
      journal_writable: beat.journal.writable,
      journal_double_starts: beat.journal.double_starts,
      journal_unacknowledged: beat.journal.unacknowledged_results,
    })),
  );
}

const keysOf = (rows: readonly HeartbeatRow[]): [string[], string[]] => [
  rows.map((row) => row.tenantId),
  rows.map((row) => row.agentId),
];

export interface Bounds {
  readonly suspectAfterMs: number;
  readonly lostAfterMs: number;
  /** A longer gap in our own listening starts the count anew. */
  readonly gapMs: number;
}

/** Says that heartbeats are listened to now. After a gap, nobody is judged before one whole bound has passed. */
export async function attend(tx: Tx, gapMs: number): Promise<void> {
  await tx.execute(
    `INSERT INTO presence_watch AS w (attended_since, attended_at) VALUES (clock_timestamp(), clock_timestamp())
     ON CONFLICT (one) DO UPDATE SET attended_at = clock_timestamp(), attended_since =
       CASE WHEN w.attended_at < clock_timestamp() - $1 * interval '1 millisecond'
         THEN clock_timestamp() ELSE w.attended_since END`,
    [gapMs],
  );
}

/** Silence counts from the last word, or from when we began to listen if that is later. */
const silentFor = (parameter: string): string =>
  `last_seen_at < clock_timestamp() - ${parameter} * interval '1 millisecond' AND EXISTS (SELECT FROM presence_watch
     WHERE attended_since < clock_timestamp() - ${parameter} * interval '1 millisecond')`;

export async function markSuspect(tx: Tx, suspectAfterMs: number, limit: number): Promise<number> {
  return tx.execute(
    `UPDATE presence SET state = 'suspect' WHERE (tenant_id, agent_id) IN (
       SELECT tenant_id, agent_id FROM presence WHERE state = 'online' AND ${silentFor("$1")}
       ORDER BY last_seen_at LIMIT $2 FOR UPDATE SKIP LOCKED)`,
    [suspectAfterMs, limit],
  );
}

export interface LostRow {
  readonly tenant_id: string;
  readonly agent_id: string;
  readonly generation: number;
  readonly last_seen_at: Date;
  readonly lost_at: Date;
}

export function markLost(tx: Tx, lostAfterMs: number, limit: number): Promise<LostRow[]> {
  return tx.query<LostRow>(
    `WITH due AS (
       SELECT tenant_id, agent_id FROM presence WHERE state IN ('online', 'suspect') AND ${silentFor("$1")}
       ORDER BY last_seen_at LIMIT $2 FOR UPDATE SKIP LOCKED)
     UPDATE presence p SET state = 'lost', lost_at = clock_timestamp() FROM due
     WHERE p.tenant_id = due.tenant_id AND p.agent_id = due.agent_id
     RETURNING p.tenant_id, p.agent_id, p.generation, p.last_seen_at, p.lost_at`,
    [lostAfterMs, limit],
  );
}

export function countStates(tx: Tx): Promise<{ state: PresenceState; agents: number }[]> {
  return tx.query("SELECT state, count(*) AS agents FROM presence GROUP BY state");
}

export interface PresenceRow {
  readonly id: string;
  readonly agent_id: string;
  readonly state: PresenceState;
  readonly version: string;
  readonly drivers: string[];
  readonly vm_uuids: string[];
  readonly running: number;
  readonly load_1m: number;
  readonly clock_skew_ms: number;
  readonly journal_writable: boolean;
  readonly first_seen_at: Date;
  readonly last_seen_at: Date;
  readonly lost_at: Date | null;
}

/** Newest first, one more than the page. */
export function listPresence(
  tx: Tx,
  o: { state: PresenceState | undefined; limit: number; beforeId: string | undefined },
): Promise<PresenceRow[]> {
  return tx.query<PresenceRow>(
    `SELECT id, agent_id, state, version, drivers, vm_uuids, running, load_1m, clock_skew_ms, journal_writable,
       first_seen_at, last_seen_at, lost_at
     FROM presence WHERE ($2::text IS NULL OR state = $2) AND ($3::uuid IS NULL OR id < $3)
     ORDER BY id DESC LIMIT $1`,
    [o.limit + 1, o.state ?? null, o.beforeId ?? null],
  );
}
