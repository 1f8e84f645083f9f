import type { VmView } from "@muster/contracts/commands";
import type { Tx } from "@muster/database/database";

export interface VmRow {
  readonly tenant_id: string;
  readonly vm_uuid: string;
  readonly name: string;
  readonly labels: Record<string, string>;
  readonly state: "active" | "retired";
  readonly epoch: number;
  readonly concurrency: number;
  readonly requested: string;
  readonly registered_at: Date;
  readonly retired_at: Date | null;
  /** Microseconds since 1970 as registered: a Date would lose some. */
  readonly place: number;
  readonly agent_id: string | null;
  readonly online: boolean | null;
  readonly version: string | null;
  readonly session_started_at: Date | null;
}

const vmColumns = `v.tenant_id, v.vm_uuid, v.name, v.labels, v.state, v.epoch, v.concurrency, v.requested,
  v.registered_at, v.retired_at, (extract(epoch FROM v.registered_at) * 1000000)::bigint AS place,
  s.agent_id, s.online, s.version, s.started_at AS session_started_at`;
const vmJoin = "LEFT JOIN agent_sessions s ON s.tenant_id = v.tenant_id AND s.agent_id = v.agent_id";

export function viewOf(row: VmRow): VmView {
  const { agent_id, online, version, session_started_at } = row;
  const agent =
    agent_id === null || session_started_at === null
      ? null
      : {
          agent_id,
          online: online ?? false,
          version: version ?? "",
          session_started_at: session_started_at.toISOString(),
        };
  return {
    vm_uuid: row.vm_uuid,
    name: row.name,
    labels: row.labels,
    state: row.state,
    epoch: row.epoch,
    concurrency: row.concurrency,
    agent,
    registered_at: row.registered_at.toISOString(),
    retired_at: row.retired_at?.toISOString() ?? null,
  };
}

export async function findVm(tx: Tx, tenantId: string, vmUuid: string): Promise<VmRow | undefined> {
  const [row] = await tx.query<VmRow>(
    `SELECT ${vmColumns} FROM vms v ${vmJoin} WHERE v.tenant_id = $1 AND v.vm_uuid = $2`,
    [tenantId, vmUuid],
  );
  return row;
}

export async function findVmByKey(tx: Tx, tenantId: string, key: string): Promise<VmRow | undefined> {
  const [row] = await tx.query<VmRow>(
    `SELECT ${vmColumns} FROM vms v ${vmJoin}
     WHERE v.tenant_id = $1 AND v.idempotency_key = $2 AND v.idempotency_key IS NOT NULL`,
    [tenantId, key],
  );
  return row;
}

export interface NewVm {
  readonly tenantId: string;
  readonly vmUuid: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly concurrency: number;
  readonly key: string | null;
  /** The request as canonical JSON. */
  readonly requested: string;
}

/** False when the VM is there already, or the key was used. */
export async function insertVm(tx: Tx, vm: NewVm): Promise<boolean> {
  const inserted = await tx.execute(
    `INSERT INTO vms (tenant_id, vm_uuid, name, labels, concurrency, idempotency_key, requested)
     VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7) ON CONFLICT DO NOTHING`,
    [vm.tenantId, vm.vmUuid, vm.name, JSON.stringify(vm.labels), vm.concurrency, vm.key, vm.requested],
  );
  return inserted === 1;
}

export interface VmListing {
  readonly tenantId: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly state: string | null;
  /** Older than this one only. */
  readonly before: { readonly place: number; readonly vmUuid: string } | null;
}

/** Newest first. */
export async function listVmRows(tx: Tx, listing: VmListing, limit: number): Promise<VmRow[]> {
  return tx.query<VmRow>(
    `SELECT ${vmColumns} FROM vms v ${vmJoin}
     WHERE v.tenant_id = $1 AND v.labels @> $2::jsonb AND ($3::text IS NULL OR v.state = $3)
       AND ($4::bigint IS NULL OR (v.registered_at, v.vm_uuid) <
         (timestamptz 'epoch' + $4::bigint * interval '1 microsecond', $5::uuid))
     ORDER BY v.registered_at DESC, v.vm_uuid DESC LIMIT $6`,
    [
      ...[listing.tenantId, JSON.stringify(listing.labels), listing.state],
      ...[listing.before?.place ?? null, listing.before?.vmUuid ?? null, limit],
    ],
  );
}

/** Locks a VM against acceptance, also the shared one, claims and other changes. */
export async function lockVm(
  tx: Tx,
  tenantId: string,
  vmUuid: string,
): Promise<{ state: "active" | "retired"; epoch: number } | undefined> {
  const [row] = await tx.query<{ state: "active" | "retired"; epoch: number }>(
    "SELECT state, epoch FROM vms WHERE tenant_id = $1 AND vm_uuid = $2 FOR UPDATE",
    [tenantId, vmUuid],
  );
  return row;
}

export async function changeVm(
  tx: Tx,
  vm: { tenantId: string; vmUuid: string },
  change: {
    readonly name: string | null;
    readonly labels: Readonly<Record<string, string>> | null;
    readonly concurrency: number | null;
  },
): Promise<void> {
  await tx.execute(
    `UPDATE vms SET name = coalesce($3, name), labels = coalesce($4::jsonb, labels),
       concurrency = coalesce($5, concurrency) WHERE tenant_id = $1 AND vm_uuid = $2`,
    [
      ...[vm.tenantId, vm.vmUuid, change.name],
      ...[change.labels === null ? null : JSON.stringify(change.labels), change.concurrency],
    ],
  );
}

/** Its epoch ends: claims of doorbells that were rung before are refused from now on. */
export async function markRetired(tx: Tx, tenantId: string, vmUuid: string): Promise<void> {
  await tx.execute(
    `UPDATE vms SET state = 'retired', retired_at = now(), epoch = epoch + 1
     WHERE tenant_id = $1 AND vm_uuid = $2`,
    [tenantId, vmUuid],
  );
}

/** Ids of the VM's commands that have not ended. */
export async function activeCommandIds(tx: Tx, tenantId: string, vmUuid: string): Promise<string[]> {
  const rows = await tx.query<{ id: string }>(
    `SELECT id FROM commands WHERE tenant_id = $1 AND vm_uuid = $2 AND phase = 'waiting'
     UNION ALL SELECT id FROM commands WHERE tenant_id = $1 AND vm_uuid = $2 AND phase = 'running'`,
    [tenantId, vmUuid],
  );
  return rows.map((row) => row.id);
}
