import type { Doorbell } from "@muster/contracts/agents";
import type { Tx } from "@muster/database/database";
import { doorbellPayloadOf, ringingOf } from "../commands/messages.ts";
import { keyOf } from "../commands/store.ts";
import type { CommandKey, LockedCommand } from "../commands/store.ts";
import { rowColumns } from "../commands/row.ts";
import type { CommandRow } from "../commands/row.ts";
import type { ClaimedVm } from "./claim-policy.ts";

/** Params up to this size come with the row; larger ones are read only for what is granted. */
const inlineBytesMax = 4_096;

export type ClaimRow = LockedCommand & {
  readonly payload_bytes: number;
  readonly expired: boolean;
  /** Canonical JSON; null when it is large. */
  readonly params: string | null;
  readonly vm_running: number;
  readonly vm_waiting: string[];
};

interface VmRow {
  readonly tenant_id: string;
  readonly vm_uuid: string;
  readonly state: string;
  readonly epoch: number;
  readonly concurrency: number;
  readonly agent_id: string | null;
}

export interface VmKey {
  readonly tenantId: string;
  readonly vmUuid: string;
}

/**
 * Locks the VMs, then, in a statement of its own so that it sees what the holders before us committed, the commands.
 * With the VM locked no other claim of it can be granted, so the counts hold.
 */
export async function lockForClaims(
  tx: Tx,
  vms: readonly VmKey[],
  commands: readonly CommandKey[],
): Promise<{ vms: Map<string, ClaimedVm>; commands: Map<string, ClaimRow> }> {
  const vmRows = await tx.query<VmRow>(
    `SELECT v.tenant_id, v.vm_uuid, v.state, v.epoch, v.concurrency, v.agent_id FROM vms v
     WHERE (v.tenant_id, v.vm_uuid) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
     ORDER BY v.tenant_id, v.vm_uuid FOR NO KEY UPDATE`,
    [vms.map((vm) => vm.tenantId), vms.map((vm) => vm.vmUuid)],
    { name: "vmops_lock_claimed_vms" },
  );
  const rows = await tx.query<ClaimRow>(
    `WITH locked AS MATERIALIZED (
       SELECT ${rowColumns}, c.payload_bytes, c.expires_at <= now() AS expired,
         CASE WHEN c.payload_bytes <= ${inlineBytesMax} THEN c.params END AS params
       FROM commands c WHERE (c.tenant_id, c.id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
       ORDER BY c.tenant_id, c.id FOR NO KEY UPDATE
     ), of_vm AS MATERIALIZED (
       SELECT v.tenant_id, v.vm_uuid, v.epoch,
         (SELECT count(*) FROM commands r WHERE r.tenant_id = v.tenant_id AND r.vm_uuid = v.vm_uuid
            AND r.phase = 'running' AND r.lane = 'work')::integer AS vm_running,
         ARRAY(SELECT w.id FROM commands w WHERE w.tenant_id = v.tenant_id AND w.vm_uuid = v.vm_uuid
            AND w.phase = 'waiting' AND w.lane = 'work' AND w.state <> 'awaiting_approval' AND w.expires_at > now()
            ORDER BY w.seq LIMIT v.concurrency)::text[] AS vm_waiting
       FROM vms v WHERE (v.tenant_id, v.vm_uuid) IN (SELECT DISTINCT l.tenant_id, l.vm_uuid FROM locked l)
     )
     SELECT l.*, o.epoch, o.vm_running, o.vm_waiting
     FROM locked l JOIN of_vm o ON o.tenant_id = l.tenant_id AND o.vm_uuid = l.vm_uuid`,
    [commands.map((command) => command.tenantId), commands.map((command) => command.id)],
    { name: "vmops_lock_claimed" },
  );
  const counts = new Map(rows.map((row) => [`${row.tenant_id}/${row.vm_uuid}`, row]));
  const claimedVms = vmRows.map((vm): [string, ClaimedVm] => {
    const key = `${vm.tenant_id}/${vm.vm_uuid}`;
    const count = counts.get(key);
    const claimed = {
      active: vm.state === "active",
      epoch: vm.epoch,
      concurrency: vm.concurrency,
      agentId: vm.agent_id,
      running: count?.vm_running ?? 0,
      waiting: [...(count?.vm_waiting ?? [])],
    };
    return [key, claimed];
  });
  return {
    vms: new Map(claimedVms),
    commands: new Map(rows.map((row) => [keyOf({ tenantId: row.tenant_id, id: row.id }), row])),
  };
}

/** Params of commands whose rows came without. */
export async function loadParams(tx: Tx, keys: readonly CommandKey[]): Promise<Map<string, string>> {
  if (keys.length === 0) return new Map();
  const rows = await tx.query<{ tenant_id: string; id: string; params: string }>(
    `SELECT tenant_id, id, params FROM commands
     WHERE (tenant_id, id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))`,
    [keys.map((key) => key.tenantId), keys.map((key) => key.id)],
  );
  return new Map(rows.map((row) => [keyOf({ tenantId: row.tenant_id, id: row.id }), row.params]));
}

/** Doorbells of waiting commands as they would ring now; those that no longer wait are missing. */
export async function doorbellsOf(tx: Tx, keys: readonly CommandKey[]): Promise<Map<string, Doorbell>> {
  if (keys.length === 0) return new Map();
  const rows = await tx.query<CommandRow & { readonly epoch: number }>(
    `SELECT ${rowColumns}, v.epoch FROM commands c
     JOIN vms v ON v.tenant_id = c.tenant_id AND v.vm_uuid = c.vm_uuid
     WHERE (c.tenant_id, c.id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
       AND c.state IN ('queued', 'dispatched') AND c.expires_at > now()`,
    [keys.map((key) => key.tenantId), keys.map((key) => key.id)],
    { name: "vmops_doorbells_of" },
  );
  return new Map(
    rows.map((row) => {
      const waitMs = row.expires_at.getTime() - row.now.getTime();
      const bell = doorbellPayloadOf(ringingOf(row, row.epoch, row.attempt, waitMs), "run");
      return [keyOf({ tenantId: row.tenant_id, id: row.id }), bell];
    }),
  );
}
