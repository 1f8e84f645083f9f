import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyOf } from "@muster/contracts/define";
import type { reliabilityRequests } from "@muster/contracts/reliability";
import type { Database } from "@muster/database/database";
import { callerOf, scopeOf } from "../access.ts";
import { idOfCursor, pageOf } from "../cursor.ts";
import { listDeadLetters } from "./store.ts";
import { viewOf } from "./view.ts";

type List = typeof reliabilityRequests.listDeadLetters;

export function listing({ database }: { database: Database }) {
  return async (payload: PayloadOf<List>, context: RequestContext): Promise<ReplyOf<List>> => {
    const caller = callerOf(context);
    const beforeId = payload.cursor === undefined ? undefined : idOfCursor(payload.cursor);
    const rows = await database.transaction(
      scopeOf(caller),
      (tx) => listDeadLetters(tx, { filter: payload.filter, limit: payload.limit, beforeId }),
      { readOnly: true },
    );
    const { items, nextCursor } = pageOf(rows, payload.limit);
    return { items: items.map(viewOf), next_cursor: nextCursor };
  };
}
