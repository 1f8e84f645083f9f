import type { VmView } from "@muster/contracts/commands";
import type { PayloadOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { RequestContext } from "@muster/broker/broker";
import type { Database } from "@muster/database/database";
import { callerOf } from "../caller.ts";
import { storable } from "../text.ts";
import { changeVm, findVm, lockVm, viewOf } from "./store.ts";

/** Throws VM_NOT_FOUND, VM_RETIRED. */
export async function updateVm(
  database: Pick<Database, "transaction">,
  { vm_uuid: vmUuid, change }: PayloadOf<typeof vmOpsRequests.updateVm>,
  context: RequestContext,
): Promise<VmView> {
  const { tenant_id: tenantId } = callerOf(context, "admin");
  return database.transaction({ tenants: [tenantId] }, async (tx) => {
    const locked = await lockVm(tx, tenantId, vmUuid);
    if (locked === undefined) throw new MusterError("VM_NOT_FOUND");
    if (locked.state === "retired") throw new MusterError("VM_RETIRED");
    const { name, labels, concurrency } = change;
    await changeVm(
      tx,
      { tenantId, vmUuid },
      {
        name: name === undefined ? null : storable(name),
        labels: labels ?? null,
        concurrency: concurrency ?? null,
      },
    );
    const row = await findVm(tx, tenantId, vmUuid);
    if (row === undefined) throw new MusterError("VM_NOT_FOUND");
    return viewOf(row);
  });
}
