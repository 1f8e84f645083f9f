import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { rotationRequests } from "@muster/contracts/rotations";
import type { Database, Tx } from "@muster/database/database";
import { callerOf, scopeOf } from "../caller.ts";
import { pageOf, placeOf } from "@muster/database/page";
import { findSecret } from "../secrets/store.ts";
import { findRotation, listFollowUps, listRotationRows, rotationSummaryOf, rotationViewOf } from "./store.ts";

type Requests = typeof rotationRequests;
type Reading = Pick<Database, "transaction">;

/** Throws SECRET_NOT_FOUND, CURSOR_INVALID. */
export async function listRotations(
  database: Reading,
  { secret_id: secretId, limit, cursor }: PayloadOf<Requests["listRotations"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["listRotations"]>> {
  const caller = callerOf(context, "member");
  const { tenantId } = caller;
  const wanted = { tenantId, secretId, before: placeOf(cursor), limit: limit + 1 };
  const list = async (tx: Tx) => {
    if ((await findSecret(tx, tenantId, secretId)) === undefined) throw new MusterError("SECRET_NOT_FOUND");
    return await listRotationRows(tx, wanted);
  };
  const rows = await database.transaction(scopeOf(caller), list, { readOnly: true });
  return pageOf(rows, limit, rotationSummaryOf);
}

/** Throws ROTATION_NOT_FOUND. */
export async function getRotation(
  database: Reading,
  { secret_id: secretId, rotation_id: rotationId }: PayloadOf<Requests["getRotation"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["getRotation"]>> {
  const caller = callerOf(context, "member");
  const key = { tenantId: caller.tenantId, rotationId };
  const find = async (tx: Tx) => {
    const row = await findRotation(tx, key);
    if (row?.secret_id !== secretId) throw new MusterError("ROTATION_NOT_FOUND");
    return rotationViewOf(row, await listFollowUps(tx, key));
  };
  return await database.transaction(scopeOf(caller), find, { readOnly: true });
}
