import type { sweepRules } from "@muster/contracts/vm-ops";
import type { Tx } from "@muster/database/database";
import type { Happening } from "../commands/machine.ts";
import { requeuePolicy } from "../commands/requeue-policy.ts";
import { rowColumns } from "../commands/row.ts";
import type { LockedCommand } from "../commands/store.ts";

export type SweepRule = (typeof sweepRules)[number];

export interface Thresholds {
  readonly runningMaxMs: number;
  readonly dispatchedMaxMs: number;
  readonly requeuesMax: number;
  /** How long an agent may take to stop what it was told to stop. */
  readonly forceMs: number;
}

interface Selection {
  /** Selects stale commands as `c`; its parameters start at $2, $1 is the limit. */
  readonly text: string;
  readonly values: readonly unknown[];
}

interface Rule {
  /** Each is a statement of its own; a rule with two steps tries the last one first. */
  readonly selections: (thresholds: Thresholds) => readonly Selection[];
  /** What happens to a command that was selected; undefined leaves it alone. */
  readonly happening: (row: LockedCommand, thresholds: Thresholds) => Happening | undefined;
}

const ago = (n: number): string => `now() - $${n}::bigint * interval '1 ms'`;

/** After an outage longer than the gap nothing is judged that silence alone would prove, until the amnesty is over. */
export const outageGapMs = 30_000;
/** Database and broker unheard of for so long: agents may have asked in vain, and wait before they ask again. */
export const interruptionGapMs = 10_000;
/** Within so long after an interruption agents ask again: half a minute's back-off, and a request that was lost. */
const askAgainMs = 45_000;
/** No agent may take longer between TERM and KILL: the bound of its setting. */
const killGraceMaxMs = 300_000;
const noAmnesty = `NOT EXISTS (SELECT 1 FROM liveness l WHERE l.amnesty_until > now()
  OR l.touched_at < now() - interval '${outageGapMs} ms')`;

const noInterruption = (n: number): string => `NOT EXISTS (SELECT 1 FROM liveness l
  WHERE l.touched_at < now() - interval '${interruptionGapMs} ms'
    OR l.resumed_at + interval '${askAgainMs} ms' >= ${ago(n)})`;

const epoch =
  "(SELECT v.epoch FROM vms v WHERE v.tenant_id = c.tenant_id AND v.vm_uuid = c.vm_uuid) AS epoch";
const select = `SELECT ${rowColumns}, ${epoch} FROM commands c`;

// Only the head of a VM's queue can be claimed, and its agent must have had the time since a command before it ended:
// before by seq, as ids are made by clocks that may jump.
// The partial indexes lead from agents that are online to their VMs to those heads. That a head was dispatched long ago
// is asked twice: alone, it is answered before the VM's history is read.
const unclaimedText = `WITH candidates AS MATERIALIZED (
    SELECT h.tenant_id, h.id, h.attempt
    FROM agent_sessions s
    JOIN vms v ON v.tenant_id = s.tenant_id AND v.agent_id = s.agent_id AND v.state = 'active'
    CROSS JOIN LATERAL (
      (SELECT w.tenant_id, w.id, w.seq, w.attempt, w.state, w.dispatched_at, w.lane FROM commands w
        WHERE w.tenant_id = v.tenant_id AND w.vm_uuid = v.vm_uuid AND w.phase = 'waiting' AND w.lane = 'work'
          AND w.expires_at > now() ORDER BY w.seq
        LIMIT greatest(0, v.concurrency - (SELECT count(*) FROM commands r
          WHERE r.tenant_id = v.tenant_id AND r.vm_uuid = v.vm_uuid AND r.phase = 'running' AND r.lane = 'work')))
      UNION ALL
      (SELECT w.tenant_id, w.id, w.seq, w.attempt, w.state, w.dispatched_at, w.lane FROM commands w
        WHERE w.tenant_id = v.tenant_id AND w.vm_uuid = v.vm_uuid AND w.phase = 'waiting' AND w.lane = 'control'
          AND w.expires_at > now() ORDER BY w.seq LIMIT 64)
    ) h
    WHERE s.online AND s.quarantined_at IS NULL AND h.state = 'dispatched' AND h.dispatched_at < ${ago(2)}
      AND greatest(h.dispatched_at, s.online_since) < ${ago(2)} AND ${noInterruption(2)}
      AND (h.lane = 'control' OR NOT EXISTS (
        SELECT 1 FROM commands p WHERE p.tenant_id = v.tenant_id AND p.vm_uuid = v.vm_uuid
          AND p.phase = 'ended' AND p.finished_at >= ${ago(2)} AND p.seq < h.seq))
    LIMIT $1
  )
  ${select} JOIN candidates d ON d.tenant_id = c.tenant_id AND d.id = c.id AND d.attempt = c.attempt
  WHERE c.state = 'dispatched' LIMIT $1`;

/** What counts as stale, and what then happens; thresholds come with the request. */
export const rules: Readonly<Record<SweepRule, Rule>> = {
  delivery_timeout: {
    selections: () => [
      {
        text: `${select} WHERE c.phase = 'waiting' AND c.expires_at <= now() AND c.state <> 'awaiting_approval'
          ORDER BY c.expires_at LIMIT $1`,
        values: [],
      },
    ],
    happening: () => ({ event: "delivery_timeout" }),
  },
  unclaimed: {
    selections: ({ dispatchedMaxMs }) => [{ text: unclaimedText, values: [dispatchedMaxMs] }],
    happening: (row, { requeuesMax }) => {
      const verdict = requeuePolicy(
        {
          ...{ state: row.state, attempt: row.attempt, attemptOfDoorbell: row.attempt },
          ...{ requeues: row.requeues, requeuesMax, claimRecorded: row.claim_nonce !== null },
        },
        { hand: "sweep" },
      );
      if (verdict.kind === "ignore") return undefined;
      return verdict.kind === "requeue"
        ? { event: "requeue", reason: verdict.reason }
        : { event: verdict.event };
    },
  },
  lease_lost: {
    selections: ({ runningMaxMs }) => [
      {
        text: `${select} WHERE c.phase = 'running' AND c.lease_renewed_at < ${ago(2)}
          AND c.lease_expires_at < now() AND c.desired = 'run' AND ${noAmnesty}
          ORDER BY c.lease_renewed_at LIMIT $1`,
        values: [runningMaxMs],
      },
    ],
    happening: () => ({ event: "lease_lost" }),
  },
  execution_timeout: {
    selections: ({ forceMs }) => [
      {
        text: `${select} WHERE c.phase = 'running' AND c.desired = 'cancel' AND c.reason = 'execution_timeout'
          AND c.cancel_requested_at < ${ago(2)} AND ${noAmnesty} ORDER BY c.cancel_requested_at LIMIT $1`,
        values: [forceMs],
      },
      {
        text: `${select} WHERE c.phase = 'running' AND c.run_until < now() AND c.desired = 'run'
          ORDER BY c.run_until LIMIT $1`,
        values: [],
      },
    ],
    happening: (row) => ({ event: row.desired === "run" ? "execution_overdue" : "execution_timeout" }),
  },
  cancel_unconfirmed: {
    selections: ({ forceMs }) => [
      {
        text: `${select} WHERE c.phase = 'running' AND c.desired = 'cancel' AND c.reason <> 'execution_timeout'
          AND c.cancel_requested_at < ${ago(2)} AND ${noAmnesty}
          AND (c.lease_expires_at < now() OR c.cancel_requested_at < ${ago(3)})
          ORDER BY c.cancel_requested_at LIMIT $1`,
        // An agent that renews is believed for as long as it may wait before it kills; what outlives that never ends.
        values: [forceMs, forceMs + killGraceMaxMs],
      },
    ],
    happening: (row) => ({
      event: "cancel_unconfirmed",
      reason: row.reason === "target_gone" ? "target_gone" : "cancelled_while_running",
    }),
  },
  // Retiring a VM does this at once. A command can wait 30 days at most, so older retirements need no look.
  target_gone: {
    selections: () => [
      {
        text: `WITH gone AS MATERIALIZED (
            SELECT w.tenant_id, w.id FROM vms v JOIN commands w ON w.tenant_id = v.tenant_id
              AND w.vm_uuid = v.vm_uuid AND w.phase = 'waiting'
            WHERE v.state = 'retired' AND v.retired_at > now() - interval '31 days' LIMIT $1)
          ${select} JOIN gone g ON g.tenant_id = c.tenant_id AND g.id = c.id WHERE c.phase = 'waiting' LIMIT $1`,
        values: [],
      },
    ],
    happening: () => ({ event: "target_gone" }),
  },
};

/** Stale commands by one statement of a rule; locked unless only looked at. Those that others have locked are left to them. */
export async function selectStale(
  tx: Tx,
  selection: Selection,
  limit: number,
  lock: boolean,
): Promise<LockedCommand[]> {
  const text = `${selection.text}${lock ? " FOR NO KEY UPDATE OF c SKIP LOCKED" : ""}`;
  return tx.query<LockedCommand>(text, [limit, ...selection.values]);
}
