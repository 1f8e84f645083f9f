import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { uuid } from "@muster/contracts/ids";
import type { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { RequestContext } from "@muster/broker/broker";
import type { Database } from "@muster/database/database";
import { z } from "zod";
import { callerOf } from "../caller.ts";
import { cursorOf, placeOf } from "../cursor.ts";
import { summaryOf } from "./row.ts";
import { listRows } from "./store-read.ts";

const place = z.object({ before: uuid });

export async function listCommands(
  database: Pick<Database, "transaction">,
  { filter, limit, cursor }: PayloadOf<typeof vmOpsRequests.listCommands>,
  context: RequestContext,
): Promise<ReplyInputOf<typeof vmOpsRequests.listCommands>> {
  const { tenant_id: tenantId } = callerOf(context, "member");
  const wanted = {
    tenantId,
    vmUuid: filter.vm_uuid ?? null,
    action: filter.action ?? null,
    states: filter.states ?? null,
    acceptedAfter: filter.accepted_after ?? null,
    acceptedBefore: filter.accepted_before ?? null,
    correlationId: filter.correlation_id ?? null,
    before: placeOf(place, cursor)?.before ?? null,
  };
  const scope = { tenants: [tenantId] };
  const rows = await database.transaction(scope, (tx) => listRows(tx, wanted, limit + 1), { readOnly: true });
  const last = rows.length > limit ? rows[limit - 1] : undefined;
  return {
    items: rows.slice(0, limit).map(summaryOf),
    next_cursor: last === undefined ? null : cursorOf({ before: last.id }),
  };
}
