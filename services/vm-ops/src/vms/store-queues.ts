import type { Database } from "@muster/database/database";

export interface VmKey {
  readonly tenant_id: string;
  readonly vm_uuid: string;
}

type Transactions = Pick<Database, "transaction">;

/** Answers how many had never had one. */
export async function markQueuesReady(database: Transactions, vms: readonly VmKey[]): Promise<number> {
  if (vms.length === 0) return 0;
  const values = [vms.map((vm) => vm.tenant_id), vms.map((vm) => vm.vm_uuid)];
  return database.transaction("system", (tx) =>
    tx.execute(
      `UPDATE vms v SET queue_ready_at = now() FROM unnest($1::text[], $2::uuid[]) AS g(tenant_id, vm_uuid)
       WHERE v.tenant_id = g.tenant_id AND v.vm_uuid = g.vm_uuid AND v.queue_ready_at IS NULL`,
      values,
    ),
  );
}

export async function markQueueRemoved(database: Transactions, vm: VmKey): Promise<void> {
  await database.transaction("system", (tx) =>
    tx.execute("UPDATE vms SET queue_removed_at = now() WHERE tenant_id = $1 AND vm_uuid = $2", [
      vm.tenant_id,
      vm.vm_uuid,
    ]),
  );
}

/** Active VMs whose queue was never made, oldest first. */
export async function vmsWithoutQueue(database: Transactions, limit: number): Promise<VmKey[]> {
  return database.transaction("system", (tx) =>
    tx.query<VmKey>(
      `SELECT tenant_id, vm_uuid FROM vms WHERE state = 'active' AND queue_ready_at IS NULL
       ORDER BY registered_at LIMIT $1`,
      [limit],
    ),
  );
}

/** Active VMs whose queue should be there, after this one. */
export async function vmsWithQueue(
  database: Transactions,
  after: VmKey | undefined,
  limit: number,
): Promise<VmKey[]> {
  const from = after ?? { tenant_id: "", vm_uuid: "00000000-0000-0000-0000-000000000000" };
  return database.transaction("system", (tx) =>
    tx.query<VmKey>(
      `SELECT tenant_id, vm_uuid FROM vms WHERE state = 'active' AND queue_ready_at IS NOT NULL
         AND (tenant_id, vm_uuid) > ($1, $2::uuid) ORDER BY tenant_id, vm_uuid LIMIT $3`,
      [from.tenant_id, from.vm_uuid, limit],
    ),
  );
}

/** Retired VMs whose queue is still there and which run nothing any more, or are retired for longer than `keptMaxMs`. */
export async function vmsWithOldQueue(
  database: Transactions,
  keptMaxMs: number,
  limit: number,
): Promise<VmKey[]> {
  return database.transaction("system", (tx) =>
    tx.query<VmKey>(
      `SELECT v.tenant_id, v.vm_uuid FROM vms v WHERE v.state = 'retired' AND v.queue_removed_at IS NULL
         AND (v.retired_at < now() - $2 * interval '1 ms' OR NOT EXISTS (SELECT 1 FROM commands c
           WHERE c.tenant_id = v.tenant_id AND c.vm_uuid = v.vm_uuid AND c.phase = 'running'))
       ORDER BY v.retired_at LIMIT $1`,
      [limit, keptMaxMs],
    ),
  );
}

export async function isActive(database: Transactions, vm: VmKey): Promise<boolean> {
  const rows = await database.transaction("system", (tx) =>
    tx.query("SELECT 1 FROM vms WHERE tenant_id = $1 AND vm_uuid = $2 AND state = 'active'", [
      vm.tenant_id,
      vm.vm_uuid,
    ]),
  );
  return rows.length === 1;
}
