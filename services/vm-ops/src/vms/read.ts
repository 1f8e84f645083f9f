import type { VmView } from "@muster/contracts/commands";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuid } from "@muster/contracts/ids";
import type { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { RequestContext } from "@muster/broker/broker";
import type { Database } from "@muster/database/database";
import { z } from "zod";
import { callerOf } from "../caller.ts";
import { cursorOf, placeOf } from "../cursor.ts";
import { findVm, listVmRows, viewOf } from "./store.ts";

export async function getVm(
  database: Pick<Database, "transaction">,
  vmUuid: string,
  context: RequestContext,
): Promise<VmView> {
  const { tenant_id } = callerOf(context, "member");
  const scope = { tenants: [tenant_id] };
  const row = await database.transaction(scope, (tx) => findVm(tx, tenant_id, vmUuid), { readOnly: true });
  if (row === undefined) throw new MusterError("VM_NOT_FOUND");
  return viewOf(row);
}

const place = z.object({ place: z.number().int().min(0), vmUuid: uuid });

export async function listVms(
  database: Pick<Database, "transaction">,
  { labels, state, limit, cursor }: PayloadOf<typeof vmOpsRequests.listVms>,
  context: RequestContext,
): Promise<ReplyInputOf<typeof vmOpsRequests.listVms>> {
  const { tenant_id: tenantId } = callerOf(context, "member");
  const listing = { tenantId, labels, state: state ?? null, before: placeOf(place, cursor) ?? null };
  const rows = await database.transaction(
    { tenants: [tenantId] },
    (tx) => listVmRows(tx, listing, limit + 1),
    { readOnly: true },
  );
  const last = rows.length > limit ? rows[limit - 1] : undefined;
  return {
    items: rows.slice(0, limit).map(viewOf),
    next_cursor: last === undefined ? null : cursorOf({ place: last.place, vmUuid: last.vm_uuid }),
  };
}
