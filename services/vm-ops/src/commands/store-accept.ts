import type { ActionName } from "@muster/contracts/actions";
import type { Tx } from "@muster/database/database";
import type { WorkContext } from "@muster/contracts/envelope";
import type { Wanted } from "./validate.ts";

/** What never changes of a command: the first answer, and whether a second request is the same. */
export interface AcceptedRow {
  readonly tenant_id: string;
  readonly idempotency_key: string | null;
  readonly id: string;
  readonly vm_uuid: string;
  readonly action: ActionName;
  readonly params: string;
  readonly payload_sha256: string;
  readonly timeout_ms: number;
  readonly expires_in_ms: number;
  readonly timeout_asked_ms: number | null;
  readonly expires_in_asked_ms: number | null;
  readonly environment: string | null;
  readonly project_id: string | null;
  readonly requested_by: string;
  readonly correlation_id: string;
  readonly accepted_at: Date;
}

export interface TenantKey {
  readonly tenantId: string;
  readonly key: string;
}

/** Commands that were accepted under these idempotency keys. */
export async function findByKeys(tx: Tx, keys: readonly TenantKey[]): Promise<AcceptedRow[]> {
  if (keys.length === 0) return [];
  return tx.query<AcceptedRow>(
    `SELECT tenant_id, idempotency_key, id, vm_uuid, action, params, payload_sha256, timeout_ms, expires_in_ms,
       timeout_asked_ms, expires_in_asked_ms, environment, project_id, requested_by, correlation_id, accepted_at
     FROM commands WHERE (tenant_id, idempotency_key) IN (SELECT * FROM unnest($1::text[], $2::text[]))
       AND idempotency_key IS NOT NULL`,
    [keys.map((one) => one.tenantId), keys.map((one) => one.key)],
    { name: "vmops_find_by_keys" },
  );
}

export interface TargetVm {
  readonly tenant_id: string;
  readonly vm_uuid: string;
  readonly state: "active" | "retired";
  readonly epoch: number;
  /** What its agent's drivers can do; null while no agent is known. */
  readonly actions: readonly ActionName[] | null;
}

/**
 * Locks VMs, in one order for everybody. Shared: they do not retire and do not change until the end, while others accept
 * and claim for them as well. Exclusive: nothing else is accepted or claimed for them meanwhile.
 */
export async function lockTargets(
  tx: Tx,
  vms: readonly { tenantId: string; vmUuid: string }[],
  lock: "shared" | "exclusive",
): Promise<TargetVm[]> {
  return tx.query<TargetVm>(
    `SELECT v.tenant_id, v.vm_uuid, v.state, v.epoch, s.actions
     FROM vms v LEFT JOIN agent_sessions s ON s.tenant_id = v.tenant_id AND s.agent_id = v.agent_id
     WHERE (v.tenant_id, v.vm_uuid) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
     ORDER BY v.tenant_id, v.vm_uuid FOR ${lock === "shared" ? "KEY SHARE" : "UPDATE"} OF v`,
    [vms.map((vm) => vm.tenantId), vms.map((vm) => vm.vmUuid)],
    { name: `vmops_lock_targets_${lock}` },
  );
}

export interface NewCommand {
  readonly tenantId: string;
  readonly id: string;
  readonly key: string | undefined;
  readonly wanted: Wanted;
  readonly requestedBy: string;
  readonly context: WorkContext;
  readonly state: string;
  readonly reason: string;
  readonly effect: string;
}

const insertText = `WITH given AS (
    SELECT * FROM json_to_recordset($1::json) AS g(n integer, nth_of_vm integer, tenant_id text, id uuid, vm_uuid uuid,
      action text, lane text, retry_safety text, params text, payload_sha256 text, payload_bytes integer,
      state text, reason text, effect text, idempotency_key text, timeout_ms bigint, expires_in_ms bigint,
      timeout_asked_ms bigint, expires_in_asked_ms bigint, environment text, project_id text, requested_by text,
      correlation_id text, traceparent text)
  ), room AS MATERIALIZED (
    SELECT v.tenant_id, v.vm_uuid, (SELECT count(*) FROM (
        SELECT 1 FROM commands c
        WHERE c.tenant_id = v.tenant_id AND c.vm_uuid = v.vm_uuid AND c.phase = 'waiting' LIMIT $2) w) AS waiting
    FROM (SELECT DISTINCT tenant_id, vm_uuid FROM given) v
  ), inserted AS (
    INSERT INTO commands (tenant_id, id, vm_uuid, action, lane, retry_safety, params, payload_sha256, payload_bytes,
      state, reason, effect, effect_carried, idempotency_key, timeout_ms, expires_in_ms, timeout_asked_ms,
      expires_in_asked_ms, environment, project_id, requested_by, correlation_id, traceparent, expires_at)
    SELECT g.tenant_id, g.id, g.vm_uuid, g.action, g.lane, g.retry_safety, g.params, g.payload_sha256,
      g.payload_bytes, g.state, g.reason, g.effect, g.effect, g.idempotency_key, g.timeout_ms, g.expires_in_ms,
      g.timeout_asked_ms, g.expires_in_asked_ms, g.environment, g.project_id, g.requested_by, g.correlation_id,
      g.traceparent, now() + g.expires_in_ms * interval '1 ms'
    FROM given g JOIN room r ON r.tenant_id = g.tenant_id AND r.vm_uuid = g.vm_uuid
    WHERE r.waiting + g.nth_of_vm <= $2
    ORDER BY g.n
    ON CONFLICT (tenant_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING tenant_id, id, state, reason, requested_by, accepted_at
  ), logged AS (
    INSERT INTO command_events (tenant_id, command_id, from_state, to_state, attempt, reason, rule, actor)
    SELECT tenant_id, id, NULL, state, 1, reason, 'accepted', requested_by FROM inserted
  )
  SELECT id, accepted_at FROM inserted`;

/**
 * Inserts commands for locked VMs with their first event, in the given order. Missing from the answer are those
 * whose key another transaction has used meanwhile, and those for whose VM `waitingMax` commands wait already.
 */
export async function insertCommands(
  tx: Tx,
  commands: readonly NewCommand[],
  waitingMax: number,
): Promise<Map<string, Date>> {
  const perVm = new Map<string, number>();
  const given = commands.map(({ wanted, ...command }, n) => {
    const vm = `${command.tenantId}/${wanted.vmUuid}`;
    const nth = (perVm.get(vm) ?? 0) + 1;
    perVm.set(vm, nth);
    return {
      n,
      nth_of_vm: nth,
      tenant_id: command.tenantId,
      id: command.id,
      vm_uuid: wanted.vmUuid,
      action: wanted.action,
      lane: wanted.lane,
      retry_safety: wanted.retrySafety,
      params: wanted.params,
      payload_sha256: wanted.payloadSha256,
      payload_bytes: Buffer.byteLength(wanted.params),
      state: command.state,
      reason: command.reason,
      effect: command.effect,
      idempotency_key: command.key ?? null,
      timeout_ms: wanted.timeoutMs,
      expires_in_ms: wanted.expiresInMs,
      timeout_asked_ms: wanted.timeoutAskedMs,
      expires_in_asked_ms: wanted.expiresInAskedMs,
      environment: wanted.environment,
      project_id: wanted.projectId,
      requested_by: command.requestedBy,
      correlation_id: command.context.correlationId,
      traceparent: command.context.traceparent ?? null,
    };
  });
  const rows = await tx.query<{ id: string; accepted_at: Date }>(
    insertText,
    [JSON.stringify(given), waitingMax],
    { name: "vmops_insert_commands" },
  );
  return new Map(rows.map((row) => [row.id, row.accepted_at]));
}
