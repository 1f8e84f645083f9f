import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { bindingView } from "@muster/contracts/secrets";
import type { BindingView, secretsRequests } from "@muster/contracts/secrets";
import type { Database, Tx } from "@muster/database/database";
import { callerOf, scopeOf } from "../caller.ts";
import type { Caller } from "../caller.ts";
import { findCreation, insertCreation } from "../creations.ts";
import type { Asked } from "../creations.ts";
import { pageOf, placeOf } from "@muster/database/page";
import type { SecretParts } from "../secrets/keep.ts";
import { lockSecret } from "../secrets/store.ts";
import { tell } from "../tell.ts";
import {
  bindingViewOf,
  countBindings,
  findBinding,
  insertBinding,
  listBindingRows,
  removeBindingRow,
} from "./store.ts";
import type { BindingRow } from "./store.ts";

type Requests = typeof secretsRequests;
type Wanted = PayloadOf<Requests["createBinding"]>["binding"];

/** Throws VALIDATION_FAILED, SECRET_NOT_FOUND, BINDING_ALREADY_EXISTS, BINDINGS_TOO_MANY, IDEMPOTENCY_KEY_REUSED. */
export async function createBinding(
  { database, keys, limits }: SecretParts,
  { binding: wanted, idempotency_key: key }: PayloadOf<Requests["createBinding"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["createBinding"]>> {
  const caller = callerOf(context, "admin");
  const asked: Asked = { kind: "binding", key, requested: wanted };
  return await database.transaction(scopeOf(caller), async (tx) => {
    const before = await findCreation(tx, keys, caller, asked);
    if (before !== undefined) return { binding: bindingView.parse(before.answer), replayed: true };
    const binding = bindingViewOf(await make(tx, caller, wanted, limits.bindingsMax));
    const { tenantId, subject: actor } = caller;
    const told = { tenantId, secretId: wanted.secret_id, change: "bound", version: null, actor } as const;
    await tell(tx, { ...told, details: detailsOf(binding) }, context);
    const made = { asked, secretId: wanted.secret_id, version: null, answer: binding };
    await insertCreation(tx, keys, caller, made);
    return { binding, replayed: false };
  });
}

/** Whom labels or a project mean is known when a command runs, not before. */
const noVm = { path: "follow_up", message: "is for a target that names a VM" };

async function make(
  tx: Tx,
  { tenantId, subject }: Caller,
  wanted: Wanted,
  bindingsMax: number,
): Promise<BindingRow> {
  const secretId = wanted.secret_id;
  const secret = await lockSecret(tx, tenantId, secretId);
  if (secret === undefined || secret.state === "deleted") throw new MusterError("SECRET_NOT_FOUND");
  const id = uuidv7();
  const { target, as, field = null, follow_up: followUp = null } = wanted;
  if (followUp !== null && !("vm_uuid" in target))
    throw new MusterError("VALIDATION_FAILED", undefined, { details: [noVm] });
  const made = { id, tenantId, secretId, target, as, field, followUp, createdBy: subject };
  const inserted = await insertBinding(tx, made);
  if (!inserted) throw new MusterError("BINDING_ALREADY_EXISTS");
  // With the one that was just made; it goes with the transaction.
  if ((await countBindings(tx, tenantId, secretId)) > bindingsMax) throw new MusterError("BINDINGS_TOO_MANY");
  const row = await findBinding(tx, tenantId, id);
  if (row === undefined) throw new Error("a binding that was just made is gone");
  return row;
}

/** Throws CURSOR_INVALID. */
export async function listBindings(
  database: Pick<Database, "transaction">,
  { filter, limit, cursor }: PayloadOf<Requests["listBindings"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["listBindings"]>> {
  const caller = callerOf(context, "member");
  const wanted = {
    tenantId: caller.tenantId,
    secretId: filter.secret_id ?? null,
    vmUuid: filter.vm_uuid ?? null,
    before: placeOf(cursor),
    limit: limit + 1,
  };
  const list = (tx: Tx) => listBindingRows(tx, wanted);
  return pageOf(await database.transaction(scopeOf(caller), list, { readOnly: true }), limit, bindingViewOf);
}

/** Throws BINDING_NOT_FOUND. */
export async function removeBinding(
  database: Pick<Database, "transaction">,
  id: string,
  context: RequestContext,
): Promise<BindingView> {
  const caller = callerOf(context, "admin");
  const { tenantId, subject: actor } = caller;
  return await database.transaction(scopeOf(caller), async (tx) => {
    const row = await findBinding(tx, tenantId, id);
    if (row === undefined || !(await removeBindingRow(tx, tenantId, id)))
      throw new MusterError("BINDING_NOT_FOUND");
    const binding = bindingViewOf(row);
    const told = { tenantId, secretId: row.secret_id, change: "unbound", version: null, actor } as const;
    await tell(tx, { ...told, details: detailsOf(binding) }, context);
    return binding;
  });
}

const detailsOf = ({ id, target, as, field, follow_up }: BindingView): Record<string, string> => ({
  binding: id,
  target: JSON.stringify(target),
  as: JSON.stringify(as),
  ...(field === null ? {} : { field }),
  ...(follow_up === null ? {} : { follow_up: follow_up.action }),
});
