import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { reliabilityRequests } from "@muster/contracts/reliability";
import type { Database } from "@muster/database/database";
import { callerOf, scopeOf } from "../access.ts";
import { readAudit, readDeadLetter } from "./store.ts";
import { detailOf } from "./view.ts";

type Get = typeof reliabilityRequests.getDeadLetter;

export function getting({ database }: { database: Database }) {
  return async (payload: PayloadOf<Get>, context: RequestContext): Promise<ReplyOf<Get>> =>
    database.transaction(
      scopeOf(callerOf(context)),
      async (tx) => {
        const row = await readDeadLetter(tx, payload.dead_letter_id);
        if (row === undefined) throw new MusterError("DEAD_LETTER_NOT_FOUND");
        return detailOf(row, await readAudit(tx, row.id));
      },
      { readOnly: true },
    );
}
