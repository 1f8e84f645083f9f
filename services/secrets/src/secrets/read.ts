import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { secretsRequests, SecretView } from "@muster/contracts/secrets";
import type { Database, Tx } from "@muster/database/database";
import { callerOf, scopeOf } from "../caller.ts";
import { pageOf, placeOf } from "@muster/database/page";
import { findSecret, listSecretRows, listVersionRows, secretViewOf, versionViewOf } from "./store.ts";
import { versionCursorOf, versionOf } from "./version-cursor.ts";

type Requests = typeof secretsRequests;
type Reading = Pick<Database, "transaction">;

/** Throws CURSOR_INVALID. */
export async function listSecrets(
  database: Reading,
  o: PayloadOf<Requests["listSecrets"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["listSecrets"]>> {
  const caller = callerOf(context, "member");
  const { tenantId } = caller;
  const wanted = { tenantId, name: o.name ?? null, before: placeOf(o.cursor), limit: o.limit + 1 };
  const list = (tx: Tx) => listSecretRows(tx, wanted);
  return pageOf(await database.transaction(scopeOf(caller), list, { readOnly: true }), o.limit, secretViewOf);
}

/** Also of one that was deleted. Throws SECRET_NOT_FOUND. */
export async function getSecret(database: Reading, id: string, context: RequestContext): Promise<SecretView> {
  const caller = callerOf(context, "member");
  const find = (tx: Tx) => findSecret(tx, caller.tenantId, id);
  const row = await database.transaction(scopeOf(caller), find, { readOnly: true });
  if (row === undefined) throw new MusterError("SECRET_NOT_FOUND");
  return secretViewOf(row);
}

/** Throws SECRET_NOT_FOUND, CURSOR_INVALID. */
export async function listVersions(
  database: Reading,
  { secret_id: secretId, limit, cursor }: PayloadOf<Requests["listVersions"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["listVersions"]>> {
  const caller = callerOf(context, "member");
  const { tenantId } = caller;
  const before = cursor === undefined ? null : versionOf(cursor);
  const list = async (tx: Tx) => {
    if ((await findSecret(tx, tenantId, secretId)) === undefined) throw new MusterError("SECRET_NOT_FOUND");
    return await listVersionRows(tx, { tenantId, secretId, before, limit: limit + 1 });
  };
  const rows = await database.transaction(scopeOf(caller), list, { readOnly: true });
  const last = rows.length > limit ? rows[limit - 1] : undefined;
  return {
    items: rows.slice(0, limit).map(versionViewOf),
    next_cursor: last === undefined ? null : versionCursorOf(last.version),
  };
}
