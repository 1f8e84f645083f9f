import { asAdmin } from "../model/facts.ts";
import type { ManagedProcess } from "../processes.ts";
import type { System } from "../system.ts";

/** What a client was told, and what it had to do again. */
export interface Requests {
  sent: number;
  readonly answers: Map<string, number>;
}

/** A `fetch` that counts answers by status and code, and what had none. */
export function countingFetch(requests: Requests): typeof fetch {
  return async (input, init) => {
    requests.sent += 1;
    try {
      const response = await fetch(input, init);
      const code = response.ok ? "" : ` ${codeOf(await response.clone().text())}`;
      add(requests.answers, `${response.status}${code}`, 1);
      return response;
    } catch (error) {
      add(requests.answers, "no answer", 1);
      throw error;
    }
  };
}

function codeOf(text: string): string {
  return /"code":"([A-Z_]+)"/.exec(text)?.[1] ?? "";
}

function add(counts: Map<string, number>, key: string, by: number): void {
  counts.set(key, (counts.get(key) ?? 0) + by);
}

/** Counters of processes that come and go: what is gone between two looks is not counted. */
export interface CounterWatch {
  /** Sums over all lives of all processes, by counter. */
  readonly sums: ReadonlyMap<string, number>;
  close(): Promise<void>;
}

const watched = /^(muster_broker_reconnects_total|muster_vmops_stale_reports_total)(?:\{[^}]*\})? (\S+)$/gm;
const lookMs = 1_000;

export function watchCounters(processes: readonly ManagedProcess[]): CounterWatch {
  const sums = new Map<string, number>();
  const last = new Map<string, number>();
  async function look(one: ManagedProcess): Promise<void> {
    const answer = await fetch(`${one.internalUrl}/metrics`, { signal: AbortSignal.timeout(lookMs) });
    const now = new Map<string, number>();
    for (const [, name = "", value] of (await answer.text()).matchAll(watched)) add(now, name, Number(value));
    for (const [name, value] of now) {
      const before = last.get(`${one.name} ${name}`) ?? 0;
      add(sums, name, value >= before ? value - before : value);
      last.set(`${one.name} ${name}`, value);
    }
  }
  const timer = setInterval(() => {
    // A process that is down or stalled has nothing to say.
    for (const one of processes) void look(one).catch(() => undefined);
  }, lookMs);
  return {
    sums,
    close: () => {
      clearInterval(timer);
      return Promise.resolve();
    },
  };
}

export type Counts = Readonly<Record<string, number>>;

/** What the system itself has on record of the run. */
export async function readRecords(system: System): Promise<Readonly<Record<string, Counts>>> {
  return await asAdmin(system.adminDatabaseUrl, async (admin) => {
    const counts = async (text: string): Promise<Counts> => {
      const rows = await admin.query<{ what: string; count: number }>(text);
      return Object.fromEntries(rows.map(({ what, count }) => [what, count]));
    };
    return {
      "commands by end": await counts(
        `SELECT state || ' (' || reason || ')' AS what, count(*)::integer AS count
         FROM vm_ops.commands GROUP BY 1 ORDER BY 2 DESC`,
      ),
      "put back into the queue, by reason": await counts(
        `SELECT reason AS what, count(*)::integer AS count FROM vm_ops.command_events
         WHERE to_state = 'queued' AND from_state IS NOT NULL GROUP BY 1 ORDER BY 2 DESC`,
      ),
      results: await counts(
        `SELECT 'late' AS what, count(*)::integer AS count FROM vm_ops.commands WHERE late
         UNION ALL SELECT 'orphaned', count(*)::integer FROM vm_ops.orphan_results
         UNION ALL SELECT 'leases lost on the way', count(*)::integer FROM vm_ops.command_events WHERE rule = 'lease_lost'`,
      ),
      amnesties: await counts("SELECT 'outages' AS what, outages AS count FROM vm_ops.liveness"),
      "dead letters": await counts(
        `SELECT kind || ' ' || CASE WHEN queue LIKE 'vm.%' THEN 'vm queue' ELSE queue END || ' (' || reason || ')' AS what,
           count(*)::integer AS count FROM reliability.dead_letters GROUP BY 1 ORDER BY 2 DESC`,
      ),
    };
  });
}
