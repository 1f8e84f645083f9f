import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { LeaseView, secretsRequests } from "@muster/contracts/secrets";
import type { Database, Tx } from "@muster/database/database";
import { callerOf, scopeOf } from "../caller.ts";
import { pageOf, placeOf } from "@muster/database/page";
import { tell } from "../tell.ts";
import { leaseViewOf, listLeaseRows, lockLease, markRevoked } from "./store.ts";

type Requests = typeof secretsRequests;
type Parts = Pick<Database, "transaction">;

/** Throws CURSOR_INVALID. */
export async function listLeases(
  database: Parts,
  { filter, limit, cursor }: PayloadOf<Requests["listLeases"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["listLeases"]>> {
  const caller = callerOf(context, "member");
  const wanted = {
    tenantId: caller.tenantId,
    secretId: filter.secret_id ?? null,
    commandId: filter.command_id ?? null,
    vmUuid: filter.vm_uuid ?? null,
    state: filter.state ?? null,
    before: placeOf(cursor),
    limit: limit + 1,
  };
  const list = (tx: Tx) => listLeaseRows(tx, wanted);
  return pageOf(await database.transaction(scopeOf(caller), list, { readOnly: true }), limit, leaseViewOf);
}

/** One that is over stays as it ended. Throws LEASE_NOT_FOUND. */
export async function revokeLease(database: Parts, id: string, context: RequestContext): Promise<LeaseView> {
  const caller = callerOf(context, "admin");
  const { tenantId, subject: actor } = caller;
  return await database.transaction(scopeOf(caller), async (tx) => {
    const before = await lockLease(tx, tenantId, id);
    if (before === undefined) throw new MusterError("LEASE_NOT_FOUND");
    if (before.state !== "active") return leaseViewOf(before);
    await markRevoked(tx, tenantId, id);
    const { secret_id: secretId, version, command_id: command } = before;
    const told = { tenantId, secretId, version, change: "lease_revoked", actor } as const;
    await tell(tx, { ...told, details: { lease: id, command } }, context);
    const after = await lockLease(tx, tenantId, id);
    if (after === undefined) throw new Error("a locked lease is gone");
    return leaseViewOf(after);
  });
}
