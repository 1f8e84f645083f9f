import { prepareEvent } from "@muster/broker/prepare";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import type { WorkContext } from "@muster/contracts/envelope";
import { uuidv7 } from "@muster/contracts/ids";
import { tokensRevoked } from "@muster/contracts/token-revocations";
import type { revocationRequests } from "@muster/contracts/token-revocations";
import type { Database, Tx } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import { pageOf, placeOf } from "@muster/database/page";
import { listRevocationRows, revocationOf, takeUntold } from "./store.ts";

type List = (typeof revocationRequests)["listTokenRevocations"];

const toldAtOnceMax = 500;

/** Tells every process that verifies of the tokens that this transaction has voided; goes out with its commit. */
export async function tellRevoked(
  tx: Tx,
  tenantId: string | null,
  context: WorkContext = { correlationId: uuidv7() },
): Promise<number> {
  const rows = await takeUntold(tx, tenantId, toldAtOnceMax);
  const { correlationId, causationId, traceparent } = context;
  for (const row of rows) {
    const o = { context: { correlationId, causationId, traceparent }, tenantId: row.tenant_id };
    tx.publish(prepareEvent(tokensRevoked, revocationOf(row), o));
  }
  return rows.length;
}

export async function listRevocations(
  database: Pick<Database, "transaction">,
  { limit, cursor }: PayloadOf<List>,
): Promise<ReplyInputOf<List>> {
  const after = placeOf(cursor);
  const list = (tx: Tx) => listRevocationRows(tx, { after, limit: limit + 1 });
  return pageOf(await database.transaction("system", list, { readOnly: true }), limit, revocationOf);
}

/** Tells what somebody changed by a statement of his own; any number of replicas share the work. */
export function openRevocationTeller(o: {
  readonly database: Pick<Database, "transaction">;
  readonly logger: Logger;
  readonly everyMs: number;
}): { close(): Promise<void> } {
  let closed = false;
  let timer: NodeJS.Timeout | undefined;
  let running = Promise.resolve();

  async function look(): Promise<void> {
    try {
      for (let told = 1; told > 0 && !closed;) {
        told = await o.database.transaction("system", (tx) => tellRevoked(tx, null));
      }
    } catch (error) {
      o.logger.debug({ err: error }, "revoked tokens could not be told of; it is tried again");
    }
    arm();
  }
  function arm(): void {
    if (closed) return;
    timer = setTimeout(() => {
      running = look();
    }, o.everyMs);
    timer.unref();
  }
  arm();
  return {
    async close() {
      closed = true;
      clearTimeout(timer);
      await running;
    },
  };
}
