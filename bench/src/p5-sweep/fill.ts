import type { Admin } from "@muster/database/admin";

/**
 * The fleet of a database: VMs that are the targets of unclaimed commands, VMs with work before them, retired ones.
 * Small or large, tables differ in nothing but the number of their commands.
 */
export interface Fleet {
  /** Of each of the three kinds. */
  readonly vms: number;
  readonly agents: number;
  readonly tenants: number;
}

/** The last active VM in the order in which vm-ops sees to their queues. */
export const lastVm = (fleet: Fleet): { tenantId: string; vmUuid: string } => ({
  tenantId: `tenant-${fleet.tenants - 1}`,
  vmUuid: `00000000-0000-7000-8000-${(2 * fleet.vms - 1).toString(16).padStart(12, "0")}`,
});

const vmUuid = (n: string): string => `('00000000-0000-7000-8000-' || lpad(to_hex(${n}), 12, '0'))::uuid`;
const agentId = (n: string): string => `('00000000-0000-7000-9000-' || lpad(to_hex(${n}), 12, '0'))::uuid`;
const tenant = (n: string, fleet: Fleet): string => `'tenant-' || (${n}) % ${fleet.tenants}`;
/** Spread, and the same each time: 0 to 99. */
const dice = (n: string): string => `((hashint4((${n})::integer) & 1048575) % 100)`;

const fleetText = (f: Fleet): string => `
  INSERT INTO agent_sessions (tenant_id, agent_id, generation, session_id, boot_id, journal_id, journal_seq, version,
      drivers, actions, online_since)
    SELECT ${tenant("n", f)}, ${agentId("n")}, 1, gen_random_uuid(), 'boot', gen_random_uuid(), 1, '1.0.0', '[]',
      '{exec}', now() - interval '30 days' FROM generate_series(0, ${f.agents - 1}) n;
  INSERT INTO vms (tenant_id, vm_uuid, name, agent_id, requested, registered_at, queue_ready_at,
      state, epoch, retired_at, queue_removed_at)
    SELECT ${tenant("n", f)}, ${vmUuid("n")}, 'vm-' || n, ${agentId(`n % ${f.agents}`)}, '{}',
      now() - interval '40 days', now() - interval '40 days', CASE WHEN gone THEN 'retired' ELSE 'active' END,
      CASE WHEN gone THEN 2 ELSE 1 END, CASE WHEN gone THEN now() - interval '1 day' END,
      CASE WHEN gone THEN now() - interval '1 day' END
    FROM (SELECT n, n >= ${2 * f.vms} AS gone FROM generate_series(0, ${3 * f.vms - 1}) n) v;`;

// Accepted one by one over the last 30 days, until two hours ago. Of the busy third of the fleet a quarter waits and
// a sixteenth runs, none of it stale; everything else has ended, half of it with a result that says something.
const commandsText = (f: Fleet, from: number, to: number, of: number): string => `
  WITH c AS (INSERT INTO commands (tenant_id, id, vm_uuid, action, lane, retry_safety, params, payload_sha256, payload_bytes,
      state, reason, effect, effect_carried, timeout_ms, expires_in_ms, requested_by, correlation_id, accepted_at,
      expires_at, dispatched_at, started_at, lease_renewed_at, lease_expires_at, run_until, finished_at, agent_id,
      generation, claim_nonce, exit_code, run_ms, result)
    SELECT ${tenant("vm", f)}, (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
        || lpad(to_hex(n % 4096), 3, '0') || '8' || substr(md5(n::text), 1, 15))::uuid,
      ${vmUuid("vm")}, 'exec', 'work', 'never', '{"args":["-c","' || md5(n::text) || '"],"program":"sh"}',
      repeat(md5(n::text), 2), 60, state, CASE state WHEN 'succeeded' THEN 'completed' WHEN 'running' THEN
        'claim_granted' ELSE 'doorbell_confirmed' END, 'none', 'none', 600000, 86400000, 'user:bench',
      'bench-' || n, at, now() + interval '1 day', CASE WHEN state = 'dispatched' THEN now() ELSE at END, CASE WHEN claimed THEN at END,
      CASE WHEN state = 'running' THEN now() END, CASE WHEN state = 'running' THEN now() + interval '1 day' END,
      CASE WHEN claimed THEN now() + interval '1 day' END, CASE WHEN state = 'succeeded' THEN at + interval '1 s' END,
      CASE WHEN claimed THEN ${agentId(`vm % ${f.agents}`)} END, CASE WHEN claimed THEN 1 END,
      CASE WHEN claimed THEN gen_random_uuid() END, CASE WHEN state = 'succeeded' THEN 0 END,
      CASE WHEN state = 'succeeded' THEN 1000 END,
      CASE WHEN state = 'succeeded' AND n % 2 = 0 THEN '{"data":{"said":"' || repeat(md5(n::text), 4) || '"}}' END
    FROM (SELECT *, state <> 'dispatched' AS claimed FROM (SELECT n, n % ${3 * f.vms} AS vm,
        now() - interval '2 hours' - interval '30 days' * ((${of} - n)::float8 / ${of}) AS at,
        CASE WHEN n % ${3 * f.vms} / ${f.vms} <> 1 OR ${dice("n")} >= 30 THEN 'succeeded'
          WHEN ${dice("n")} < 24 THEN 'dispatched' ELSE 'running' END AS state
      FROM generate_series(${from}, ${to}) n) a) b RETURNING tenant_id, id, accepted_at)
  INSERT INTO command_events (tenant_id, command_id, at, from_state, to_state, attempt, reason, rule, actor)
    SELECT c.tenant_id, c.id, c.accepted_at, s.was, s.state, 1, s.rule, s.rule, 'user:bench'
    FROM c, (VALUES (NULL, 'queued', 'accepted'), ('queued', 'dispatched', 'doorbell_confirmed')) s(was, state, rule)`;

const chunk = 100_000;

/** Fills an empty schema with so many commands, and leaves it as a database that has been in use: analysed, vacuumed. */
export async function fill(admin: Admin, fleet: Fleet, commands: number): Promise<void> {
  await admin.run("SET search_path = vm_ops; SET synchronous_commit = off");
  await admin.run(fleetText(fleet));
  // Made anew over all rows, which takes a fraction of the time; the server's own text says how.
  const indexes = await admin.query<{ name: string; text: string }>(
    `SELECT indexname AS name, indexdef AS text FROM pg_indexes
     WHERE schemaname = 'vm_ops' AND tablename = 'commands' AND indexname <> 'commands_pkey'`,
  );
  for (const { name } of indexes) await admin.run(`DROP INDEX ${name}`);
  for (let from = 1; from <= commands; from += chunk) {
    await admin.run(commandsText(fleet, from, Math.min(commands, from + chunk - 1), commands));
  }
  for (const { text } of indexes) await admin.run(text);
  for (const table of ["vms", "agent_sessions", "commands", "command_events"]) {
    await admin.run(`VACUUM ANALYZE ${table}`);
  }
  await admin.run("CHECKPOINT");
}
