import type { Admin } from "@muster/database/admin";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { z } from "zod";
import type { System } from "../system.ts";
import { asAdmin } from "./facts.ts";

const queueList = z.array(z.object({ name: z.string(), messages: z.number().default(0) }));
/** The broker's own numbers are as old as this at most: a queue is empty when it was so twice, this far apart. */
const statisticsMs = 6_000;

/** Every message of the mesh that is not accounted for, in words. */
export async function faultsOfMessages(
  system: System,
  o: { withinMs: number; mayDie: (letter: DeadLetter) => boolean; queues: boolean },
): Promise<string[]> {
  const faults = await Promise.all([
    faultsOfOutboxes(system, o.withinMs),
    o.queues ? faultsOfQueues(system, o.withinMs) : [],
    faultsOfDeadLetters(system, o.withinMs, o.mayDie),
    faultsOfAudits(system, o.withinMs),
  ]);
  return faults.flat();
}

/** Repeats `find` until it finds nothing wrong; answers what it found last. */
async function lasting(find: () => Promise<string[]>, withinMs: number): Promise<string[]> {
  let last: string[] = [];
  try {
    await eventuallyHolds(async () => {
      last = await find().catch((error: unknown) => [String(error)]);
      if (last.length > 0) throw new Error(last[0]);
    }, withinMs);
    return [];
  } catch {
    return last;
  }
}

async function faultsOfOutboxes(system: System, withinMs: number): Promise<string[]> {
  return await lasting(async () => {
    return await asAdmin(system.adminDatabaseUrl, async (admin) => {
      const rows = await admin.query<{ of: string; type: string; last_verdict: string | null }>(
        `SELECT 'vm_ops' AS of, type, last_verdict FROM vm_ops.outbox
         UNION ALL SELECT 'reliability', type, last_verdict FROM reliability.outbox
         UNION ALL SELECT 'auth', type, last_verdict FROM auth.outbox`,
      );
      return rows.map(
        (row) => `the outbox of ${row.of} keeps ${row.type} (${row.last_verdict ?? "untried"})`,
      );
    });
  }, withinMs);
}

/** Doorbells may wait for an agent that is not there; everything else is taken. */
async function faultsOfQueues(system: System, withinMs: number): Promise<string[]> {
  const emptySince = new Map<string, number>();
  const find = async (): Promise<string[]> => {
    const waiting = await asAdmin(system.adminDatabaseUrl, mayWait);
    const path = "/queues/{vhost}?disable_stats=true&enable_queue_totals=true";
    const faults: string[] = [];
    for (const { name, messages } of queueList.parse(await system.vhost.call("GET", path))) {
      const mayHold = waiting.get(name) ?? 0;
      const since = emptySince.get(name);
      if (since !== undefined && performance.now() - since >= statisticsMs) continue;
      if (messages <= mayHold && since === undefined) emptySince.set(name, performance.now());
      faults.push(
        messages <= mayHold
          ? `${name} was not yet seen empty for long enough`
          : `${name} holds ${messages} messages, of which ${mayHold} wait for an agent`,
      );
    }
    return faults;
  };
  return await lasting(find, withinMs + statisticsMs);
}

/** VM queue → doorbells that may be in it because no agent of the VM is online: one per attempt and cancel. */
async function mayWait(admin: Admin): Promise<Map<string, number>> {
  const rows = await admin.query<{ queue: string; rung: number }>(
    `SELECT 'vm.' || v.tenant_id || '.' || v.vm_uuid || '.commands' AS queue, (2 * sum(c.attempt))::integer AS rung
     FROM vm_ops.vms v JOIN vm_ops.commands c USING (tenant_id, vm_uuid)
     WHERE NOT EXISTS (SELECT 1 FROM vm_ops.agent_sessions s
       WHERE s.tenant_id = v.tenant_id AND s.agent_id = v.agent_id AND s.online AND s.quarantined_at IS NULL)
     GROUP BY v.tenant_id, v.vm_uuid`,
  );
  return new Map(rows.map((row) => [row.queue, row.rung]));
}

export interface DeadLetter {
  readonly kind: "message" | "command";
  readonly state: "open" | "replayed" | "discarded";
  readonly queue: string;
  readonly reason: string;
  readonly type: string;
  readonly command_id: string | null;
  readonly last_error: string | null;
}

/** What died is on record with its reason: every command that was given up, and no message that nobody gave up. */
async function faultsOfDeadLetters(
  system: System,
  withinMs: number,
  mayDie: (letter: DeadLetter) => boolean,
): Promise<string[]> {
  return await lasting(async () => {
    const { letters, unrecorded } = await asAdmin(system.adminDatabaseUrl, async (admin) => ({
      letters: await admin.query<DeadLetter>(
        "SELECT kind, state, queue, reason, type, command_id, last_error FROM reliability.dead_letters",
      ),
      unrecorded: await admin.query<{ id: string; reason: string }>(
        `SELECT c.id, c.reason FROM vm_ops.commands c WHERE c.state = 'dead_lettered' AND NOT EXISTS (
           SELECT 1 FROM reliability.dead_letters d
           WHERE d.kind = 'command' AND d.command_id = c.id AND d.command_attempt = c.attempt AND d.reason = c.reason)`,
      ),
    }));
    return [
      ...unrecorded.map(({ id, reason }) => `${id} was given up (${reason}) and no dead letter says so`),
      ...letters
        .filter((letter) => letter.reason === "" || (letter.kind === "message" && !mayDie(letter)))
        .map((l) => `a ${l.type} died in ${l.queue}: ${l.reason} (${l.last_error ?? "no error"})`),
    ];
  }, withinMs);
}

/** The system's own audits, counted after this was asked. */
async function faultsOfAudits(system: System, withinMs: number): Promise<string[]> {
  const from = Date.now() / 1_000;
  const value = (metrics: string, name: string): number =>
    Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, "m").exec(metrics)?.[1] ?? Number.NaN);
  const read = async (): Promise<string> => {
    const metrics = await (await fetch(`${system.services.reliability.internalUrl}/metrics`)).text();
    const at = value(metrics, "muster_audit_counted_timestamp_seconds");
    if (!(at > from)) throw new Error(`the audits were last counted at ${at}`);
    return metrics;
  };
  try {
    const metrics = await eventually(read, withinMs);
    return [...metrics.matchAll(/^muster_audit\{[^}]*audit="([^"]+)"[^}]*\} (\S+)$/gm)]
      .filter(([, , count]) => Number(count) !== 0)
      .map(([, name, count]) => `audit ${name ?? ""} counts ${count ?? ""}`);
  } catch (error) {
    return [`no audit was counted: ${error instanceof Error ? error.message : String(error)}`];
  }
}
