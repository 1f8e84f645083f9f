import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { reliabilityRequests } from "@muster/contracts/reliability";
import { callerWithRole, scopeOf } from "../access.ts";
import { replayOne } from "./replay.ts";
import type { ReplayOutcome, ReplayParts } from "./replay.ts";
import { listDeadLetters } from "./store.ts";

type ReplayMany = typeof reliabilityRequests.replayDeadLetters;

/** What is left of the asker's patience when no further one is begun. */
const marginMs = 12_000;

export function replayingMany(parts: ReplayParts) {
  return async (payload: PayloadOf<ReplayMany>, context: RequestContext): Promise<ReplyOf<ReplayMany>> => {
    const caller = callerWithRole(context, "admin");
    const untilMs = performance.now() + context.remainingMs - marginMs;
    const rows = await parts.database.transaction(
      scopeOf(caller),
      (tx) =>
        listDeadLetters(tx, {
          filter: { ...payload.filter, state: "open" },
          limit: payload.limit,
          beforeId: undefined,
          oldestFirst: true,
        }),
      { readOnly: true },
    );
    const replayed: ReplayOutcome[] = [];
    const refused: { id: string; code: string; message: string }[] = [];
    for (const row of rows.slice(0, payload.limit)) {
      if (performance.now() > untilMs && replayed.length + refused.length > 0) break;
      try {
        replayed.push(await replayOne(parts, row.id, caller, context));
      } catch (error) {
        if (!(error instanceof MusterError)) throw error;
        refused.push({ id: row.id, code: error.code, message: error.message });
      }
    }
    return { replayed, refused, more: rows.length > replayed.length + refused.length };
  };
}
