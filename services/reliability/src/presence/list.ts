import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyOf } from "@muster/contracts/define";
import type { PresenceView, reliabilityRequests } from "@muster/contracts/reliability";
import type { Database } from "@muster/database/database";
import { callerOf, scopeOf } from "../access.ts";
import { idOfCursor, pageOf } from "../cursor.ts";
import { listPresence } from "./store.ts";
import type { PresenceRow } from "./store.ts";

type List = typeof reliabilityRequests.listAgents;

export function listingAgents({ database }: { database: Database }) {
  return async (payload: PayloadOf<List>, context: RequestContext): Promise<ReplyOf<List>> => {
    const { state, limit, cursor } = payload;
    const beforeId = cursor === undefined ? undefined : idOfCursor(cursor);
    const rows = await database.transaction(
      scopeOf(callerOf(context)),
      (tx) => listPresence(tx, { state, limit, beforeId }),
      { readOnly: true },
    );
    const { items, nextCursor } = pageOf(rows, limit);
    return { items: items.map(viewOf), next_cursor: nextCursor };
  };
}

const viewOf = (row: PresenceRow): PresenceView => ({
  agent_id: row.agent_id,
  state: row.state,
  version: row.version,
  drivers: row.drivers,
  vm_uuids: row.vm_uuids,
  running: row.running,
  load_1m: row.load_1m,
  clock_skew_ms: row.clock_skew_ms,
  journal_writable: row.journal_writable,
  first_seen_at: row.first_seen_at.toISOString(),
  last_seen_at: row.last_seen_at.toISOString(),
  lost_at: row.lost_at?.toISOString() ?? null,
});
