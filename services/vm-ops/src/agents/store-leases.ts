import type { Tx } from "@muster/database/database";
import type { CommandKey } from "../commands/store.ts";

/** Starts the leases of locked, running commands anew. */
export async function renewLeases(tx: Tx, keys: readonly CommandKey[], leaseMs: number): Promise<void> {
  if (keys.length === 0) return;
  await tx.execute(
    `UPDATE commands c SET lease_renewed_at = now(), lease_expires_at = now() + $3::bigint * interval '1 ms'
     FROM unnest($1::text[], $2::uuid[]) AS g(tenant_id, id)
     WHERE c.tenant_id = g.tenant_id AND c.id = g.id AND c.state = 'running'`,
    [keys.map((key) => key.tenantId), keys.map((key) => key.id), leaseMs],
    { name: "vmops_renew_leases" },
  );
}
