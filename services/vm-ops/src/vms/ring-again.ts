import type { Database } from "@muster/database/database";
import { doorbellAgain, ringingOf } from "../commands/messages.ts";
import { rowColumns } from "../commands/row.ts";
import type { LockedCommand } from "../commands/store.ts";
import type { VmKey } from "./store-queues.ts";

/** As many as may wait for one VM. */
const rungMax = 4_000;

/**
 * Rings again for every command whose doorbell the broker had; one that arrives twice changes nothing, since
 * only the claim starts. Answers how many.
 */
export async function ringAgain(database: Pick<Database, "transaction">, vm: VmKey): Promise<number> {
  return database.transaction("system", async (tx) => {
    const rows = await tx.query<LockedCommand>(
      `SELECT ${rowColumns}, v.epoch FROM commands c JOIN vms v USING (tenant_id, vm_uuid)
       WHERE c.tenant_id = $1 AND c.vm_uuid = $2 AND c.phase = 'waiting' AND c.state = 'dispatched'
         AND c.expires_at > now() ORDER BY c.seq LIMIT $3`,
      [vm.tenant_id, vm.vm_uuid, rungMax],
    );
    for (const row of rows) {
      const leftMs = row.expires_at.getTime() - row.now.getTime();
      tx.publish(doorbellAgain(ringingOf(row, row.epoch, row.attempt, leftMs)));
    }
    return rows.length;
  });
}
