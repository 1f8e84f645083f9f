import type { sweepRules } from "@muster/contracts/vm-ops";
import type { Admin } from "@muster/database/admin";
import type { Fleet } from "./fill.ts";

export type Rule = (typeof sweepRules)[number];

const vmNumber = "('x' || right(vm_uuid::text, 12))::bit(48)::bigint";

/** Which third of the fleet a rule's stale commands are on. */
const thirds: Readonly<Record<Rule, number>> = {
  unclaimed: 0,
  delivery_timeout: 1,
  lease_lost: 1,
  execution_timeout: 1,
  cancel_unconfirmed: 1,
  target_gone: 2,
};

const hourAgo = "now() - interval '1 hour'";
const waiting = `state = 'dispatched', finished_at = NULL, claim_nonce = NULL, agent_id = NULL, result = NULL,
  exit_code = NULL, desired = 'run', attempt = 1, requeues = 0, effect = 'none', late = false,
  dispatched_at = ${hourAgo}, expires_at = now() + interval '1 day'`;
const running = `state = 'running', finished_at = NULL, claim_nonce = gen_random_uuid(), result = NULL, desired = 'run',
  attempt = 1, requeues = 0, effect = 'none', late = false, exit_code = NULL, started_at = ${hourAgo},
  agent_id = '00000000-0000-7000-9000-000000000000', generation = 1, cancel_requested_at = NULL,
  reason = 'claim_granted', lease_renewed_at = now(), lease_expires_at = now() + interval '1 day',
  run_until = now() + interval '1 day'`;
const leaseOver = `lease_renewed_at = ${hourAgo}, lease_expires_at = ${hourAgo}`;

/** How a command that ended becomes one that this rule must find. Later assignments replace earlier ones. */
const staleness: Readonly<Record<Rule, readonly string[]>> = {
  delivery_timeout: [waiting, `expires_at = ${hourAgo}`],
  unclaimed: [waiting],
  lease_lost: [running, leaseOver],
  execution_timeout: [running, `run_until = ${hourAgo}`],
  cancel_unconfirmed: [
    running,
    `${leaseOver}, desired = 'cancel', cancel_requested_at = ${hourAgo}, reason = 'cancelled_while_running'`,
  ],
  target_gone: [waiting],
};

/** `name = expression` lists as one list, each name once. */
function assignments(lists: readonly string[]): string {
  const byName = new Map<string, string>();
  for (const list of lists) {
    for (const one of list.split(/,\s*(?=[a-z_]+ = )/)) byName.set(one.slice(0, one.indexOf(" = ")), one);
  }
  return [...byName.values()].join(", ");
}

/** Chooses, once, which commands each rule shall find: spread evenly over all that ended, or the newest of each VM. */
export async function chooseStale(admin: Admin, fleet: Fleet, count: number): Promise<void> {
  await admin.run(
    "CREATE TABLE public.chosen (rule text, tenant_id text, id uuid, PRIMARY KEY (rule, tenant_id, id))",
  );
  for (const [rule, third] of Object.entries(thirds)) {
    const order = third === 1 ? "md5(id::text)" : "newest, md5(id::text)";
    await admin.query(
      `INSERT INTO public.chosen SELECT $1, tenant_id, id FROM (
         SELECT tenant_id, id, row_number() OVER (PARTITION BY tenant_id, vm_uuid ORDER BY id DESC) AS newest
         FROM commands WHERE state = 'succeeded' AND ${vmNumber} / $2 = $3) c
       ORDER BY ${order} LIMIT $4`,
      [rule, fleet.vms, third, count],
    );
  }
  await admin.run("VACUUM ANALYZE public.chosen");
}

/** Makes the rule's commands stale. Answers how many. */
export async function makeStale(admin: Admin, rule: Rule): Promise<number> {
  const rows = await admin.query(
    `UPDATE commands c SET ${assignments(staleness[rule])} FROM public.chosen s
     WHERE s.rule = $1 AND s.tenant_id = c.tenant_id AND s.id = c.id RETURNING 1`,
    [rule],
  );
  return rows.length;
}

/** Everything that a rule put back or told to stop has ended long ago, as before. */
export async function settle(admin: Admin, rule: Rule): Promise<void> {
  await admin.query(
    `UPDATE commands c SET state = 'succeeded', reason = 'completed', desired = 'run', effect = 'none', late = false,
       finished_at = ${hourAgo}, lease_renewed_at = NULL, lease_expires_at = NULL, cancel_requested_at = NULL,
       attempt = 1, requeues = 0
     FROM public.chosen s WHERE s.rule = $1 AND s.tenant_id = c.tenant_id AND s.id = c.id`,
    [rule],
  );
}

export interface Touched {
  readonly seqScans: number;
  /** Index name → entries read. */
  readonly entriesRead: Readonly<Record<string, number>>;
}

/** What of the commands' table has been read since the last reset, by the server's own count. */
export async function touched(admin: Admin): Promise<Touched> {
  // A backend hands its counts over when it is idle, at most once a second.
  await admin.query("SELECT pg_sleep(1.2), pg_stat_clear_snapshot()");
  const [table] = await admin.query<{ seq_scan: string }>(
    "SELECT seq_scan FROM pg_stat_user_tables WHERE schemaname = 'vm_ops' AND relname = 'commands'",
  );
  const indexes = await admin.query<{ name: string; read: string }>(
    `SELECT indexrelname AS name, idx_tup_read AS read FROM pg_stat_user_indexes
     WHERE schemaname = 'vm_ops' AND relname = 'commands'`,
  );
  return {
    seqScans: Number(table?.seq_scan ?? 0),
    entriesRead: Object.fromEntries(indexes.map(({ name, read }) => [name, Number(read)])),
  };
}
