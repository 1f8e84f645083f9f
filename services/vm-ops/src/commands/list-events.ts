import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { RequestContext } from "@muster/broker/broker";
import type { Database } from "@muster/database/database";
import { z } from "zod";
import { callerOf } from "../caller.ts";
import { cursorOf, placeOf } from "../cursor.ts";
import { readEvents } from "./store-read.ts";

const place = z.object({ after: z.number().int().min(0) });

export async function listCommandEvents(
  database: Pick<Database, "transaction">,
  { command_id, limit, cursor }: PayloadOf<typeof vmOpsRequests.listCommandEvents>,
  context: RequestContext,
): Promise<ReplyInputOf<typeof vmOpsRequests.listCommandEvents>> {
  const { tenant_id: tenantId } = callerOf(context, "member");
  const after = placeOf(place, cursor)?.after ?? 0;
  const events = await database.transaction(
    { tenants: [tenantId] },
    (tx) => readEvents(tx, { tenantId, id: command_id }, after, limit + 1),
    { readOnly: true },
  );
  if (events === undefined) throw new MusterError("COMMAND_NOT_FOUND");
  const last = events.length > limit ? events[limit - 1] : undefined;
  return {
    items: events.slice(0, limit),
    next_cursor: last === undefined ? null : cursorOf({ after: last.id }),
  };
}
