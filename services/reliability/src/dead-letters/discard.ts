import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { reliabilityRequests } from "@muster/contracts/reliability";
import type { Database } from "@muster/database/database";
import { callerWithRole, scopeOf } from "../access.ts";
import { refuseUnlessOpen } from "./replay.ts";
import { readDeadLetter, settle } from "./store.ts";
import { storableText } from "./storable.ts";
import { viewOf } from "./view.ts";

type Discard = typeof reliabilityRequests.discardDeadLetter;

export function discarding({ database }: { database: Database }) {
  return async (payload: PayloadOf<Discard>, context: RequestContext): Promise<ReplyOf<Discard>> => {
    const caller = callerWithRole(context, "admin");
    const { dead_letter_id: id } = payload;
    return database.transaction(scopeOf(caller), async (tx) => {
      // Locked first: of two operators at once, the second reads what the first has done.
      refuseUnlessOpen(await readDeadLetter(tx, id, "FOR UPDATE"));
      const note = storableText(payload.reason, 500);
      await settle(tx, id, { state: "discarded", actor: caller.subject, note });
      const row = await readDeadLetter(tx, id);
      if (row === undefined) throw new MusterError("DEAD_LETTER_NOT_FOUND");
      return viewOf(row);
    });
  };
}
