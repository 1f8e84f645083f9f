import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { FaultDetail } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { issuerView } from "@muster/contracts/issuers";
import type { issuerRequests, IssuerView } from "@muster/contracts/issuers";
import type { Database, Tx } from "@muster/database/database";
import { isAbove } from "../accounts/rules.ts";
import { recordAudit } from "../audit/store.ts";
import { callerOf, changerOf, scopeOf } from "../caller.ts";
import type { Caller } from "../caller.ts";
import { once } from "../creations.ts";
import { pageOf, placeOf } from "@muster/database/page";
import { tellRevoked } from "../revocations/tell.ts";
import { storable } from "../text.ts";
import { addressFault } from "./addresses.ts";
import type { Networks } from "./addresses.ts";
import {
  countTrusted,
  findIssuer,
  insertIssuer,
  issuerViewOf,
  listIssuerRows,
  markRemoved,
} from "./store.ts";
import type { IssuerRow } from "./store.ts";

type Requests = typeof issuerRequests;
type Wanted = PayloadOf<Requests["createIssuer"]>["issuer"];

export interface IssuerParts {
  readonly database: Pick<Database, "transaction">;
  readonly networks: Networks;
}

/** Entries of one tenant that are trusted at once. */
export const issuersMax = 20;
/** As many as a token carries. */
const permissionsMax = 64;

/** Throws VALIDATION_FAILED, ISSUER_ALREADY_EXISTS, ISSUERS_TOO_MANY, IDEMPOTENCY_KEY_REUSED. */
export async function createIssuer(
  { database, networks }: IssuerParts,
  { issuer: wanted, idempotency_key: key }: PayloadOf<Requests["createIssuer"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["createIssuer"]>> {
  return await database.transaction(scopeOf(context), async (tx) => {
    const caller = await changerOf(tx, context, "owner");
    const details = faultsOf(wanted, networks);
    if (details.length > 0) throw new MusterError("VALIDATION_FAILED", undefined, { details });
    const what = { kind: "issuer", key, requested: wanted, answer: issuerView } as const;
    const { answer, replayed } = await once(tx, caller, what, async () =>
      issuerViewOf(await make(tx, caller, wanted)),
    );
    return { issuer: answer, replayed };
  });
}

function faultsOf(wanted: Wanted, networks: Networks): FaultDetail[] {
  const faults: FaultDetail[] = [];
  const say = (path: string, message: string | undefined) => {
    if (message !== undefined) faults.push({ path, message });
  };
  say("issuer", addressFault(wanted.issuer, networks));
  if (wanted.issuer.includes("?")) say("issuer", "must have no query");
  if (wanted.jwks_uri !== undefined) say("jwks_uri", addressFault(wanted.jwks_uri, networks));
  wanted.role_map.forEach(({ role, value }, i) => {
    if (storable(value) !== value) say(`role_map[${i}].value`, "has half of a surrogate pair");
    if (isAbove(role, wanted.role_max)) say(`role_map[${i}].role`, `is above role_max, ${wanted.role_max}`);
  });
  const permissions = new Set(wanted.role_map.flatMap((mapped) => mapped.permissions));
  if (permissions.size > permissionsMax)
    say("role_map", `has more than ${permissionsMax} permissions in all`);
  return faults;
}

async function make(tx: Tx, caller: Caller, wanted: Wanted): Promise<IssuerRow> {
  const { tenantId } = caller;
  // Under the tenant's lock: nobody else makes one meanwhile.
  if ((await countTrusted(tx, tenantId)) >= issuersMax) throw new MusterError("ISSUERS_TOO_MANY");
  const row = await insertIssuer(tx, {
    id: uuidv7(),
    tenantId,
    issuer: wanted.issuer,
    audience: wanted.audience,
    jwksUri: wanted.jwks_uri ?? null,
    algorithms: [...new Set(wanted.algorithms)],
    tenantClaim: wanted.tenant_claim ?? null,
    rolesClaim: wanted.roles_claim,
    roleMap: wanted.role_map,
    roleMax: wanted.role_max,
  });
  if (row === undefined) throw new MusterError("ISSUER_ALREADY_EXISTS");
  const { issuer, audience, role_max } = row;
  await audit(tx, caller, row, "created", { issuer, audience, role_max });
  return row;
}

export function listIssuers(
  database: Pick<Database, "transaction">,
  o: PayloadOf<Requests["listIssuers"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["listIssuers"]>> {
  const list = async (tx: Tx) => {
    const { tenantId } = await callerOf(tx, context, "owner");
    const before = placeOf(o.cursor);
    return pageOf(await listIssuerRows(tx, { tenantId, before, limit: o.limit + 1 }), o.limit, issuerViewOf);
  };
  return database.transaction(scopeOf(context), list, { readOnly: true });
}

/** Throws ISSUER_NOT_FOUND. */
export function getIssuer(
  database: Pick<Database, "transaction">,
  id: string,
  context: RequestContext,
): Promise<IssuerView> {
  const get = async (tx: Tx) => issuerViewOf(await found(tx, await callerOf(tx, context, "owner"), id));
  return database.transaction(scopeOf(context), get, { readOnly: true });
}

/** Its users stay, and may do nothing with auth from now on. Throws ISSUER_NOT_FOUND. */
export async function removeIssuer(
  database: Pick<Database, "transaction">,
  id: string,
  context: RequestContext,
): Promise<IssuerView> {
  return await database.transaction(scopeOf(context), async (tx) => {
    const caller = await changerOf(tx, context, "owner");
    const row = await found(tx, caller, id);
    if (row.removed_at !== null) return issuerViewOf(row);
    const removed = await markRemoved(tx, caller.tenantId, id);
    await audit(tx, caller, removed, "removed", { issuer: row.issuer, audience: row.audience });
    await tellRevoked(tx, caller.tenantId, context);
    return issuerViewOf(removed);
  });
}

async function found(tx: Tx, caller: Caller, id: string): Promise<IssuerRow> {
  const row = await findIssuer(tx, caller.tenantId, id);
  if (row === undefined) throw new MusterError("ISSUER_NOT_FOUND");
  return row;
}

function audit(
  tx: Tx,
  caller: Caller,
  row: IssuerRow,
  what: "created" | "removed",
  details: Record<string, string>,
): Promise<void> {
  return recordAudit(tx, {
    tenantId: caller.tenantId,
    actor: caller.subject,
    action: `issuer.${what}`,
    subject: `issuer:${row.id}`,
    details,
  });
}
