import type { RequestContext } from "@muster/broker/broker";
import type { accountChange, newServiceAccount } from "@muster/contracts/accounts";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import type { Database, Tx } from "@muster/database/database";
import type { z } from "zod";
import { recordAudit } from "../audit/store.ts";
import { callerOf, changerOf, scopeOf } from "../caller.ts";
import type { Caller } from "../caller.ts";
import { once } from "../creations.ts";
import { pageOf, placeOf } from "@muster/database/page";
import { tellRevoked } from "../revocations/tell.ts";
import { storable } from "../text.ts";
import { grantFaults, mayChange } from "./rules.ts";
import {
  changeAccount,
  disableAccount,
  findAccount,
  hasOtherOwner,
  insertAccount,
  listAccounts,
} from "./store.ts";
import type { Account, AccountKind } from "./store.ts";

interface Kind<V extends z.ZodType> {
  readonly kind: AccountKind;
  readonly view: V;
  readonly viewOf: (row: Account) => z.output<V>;
}

type Wanted = z.output<typeof newServiceAccount> & { readonly email?: string };
type Change = z.output<typeof accountChange>;

/** What can be done to the accounts of one kind, all of it by an admin at least. */
export function accountsOf<V extends z.ZodType>(
  database: Pick<Database, "transaction">,
  { kind, view, viewOf }: Kind<V>,
) {
  return {
    /** Throws USER_ALREADY_EXISTS, FORBIDDEN for more than the caller has, IDEMPOTENCY_KEY_REUSED. */
    create: (wanted: Wanted, key: string | undefined, context: RequestContext) =>
      database.transaction(scopeOf(context), async (tx) => {
        const caller = await changerOf(tx, context, "admin");
        const what = { kind, key, requested: wanted, answer: view };
        return await once(tx, caller, what, async () => viewOf(await make(tx, caller, kind, wanted)));
      }),

    list: (o: { limit: number; cursor?: string | undefined }, context: RequestContext) =>
      database.transaction(
        scopeOf(context),
        async (tx) => {
          const { tenantId } = await callerOf(tx, context, "admin");
          const before = placeOf(o.cursor);
          const rows = await listAccounts(tx, { tenantId, kind, before, limit: o.limit + 1 });
          return pageOf(rows, o.limit, viewOf);
        },
        { readOnly: true },
      ),

    get: (id: string, context: RequestContext) =>
      database.transaction(
        scopeOf(context),
        async (tx) => viewOf(await found(tx, await callerOf(tx, context, "admin"), id, kind)),
        { readOnly: true },
      ),

    /** Throws ACCOUNT_NOT_FOUND, ACCOUNT_DISABLED, ACCOUNT_EXTERNAL, LAST_OWNER, FORBIDDEN. */
    update: (id: string, change: Change, context: RequestContext) =>
      database.transaction(scopeOf(context), async (tx) => {
        const caller = await changerOf(tx, context, "admin");
        const row = await changeable(tx, caller, id, kind);
        if (row.disabled_at !== null) throw new MusterError("ACCOUNT_DISABLED");
        const added = change.permissions?.filter((permission) => !row.permissions.includes(permission));
        refuse(grantFaults(caller, { role: change.role, permissions: added }));
        // Its next token would bring the old ones back.
        if (row.external !== null && (change.role !== undefined || change.permissions !== undefined)) {
          throw new MusterError("ACCOUNT_EXTERNAL");
        }
        const to = {
          name: change.name === undefined ? row.name : storable(change.name),
          role: change.role ?? row.role,
          permissions: unique(change.permissions ?? row.permissions),
        };
        if (to.role !== "owner") await keepAnOwner(tx, caller, row);
        const changed = await changeAccount(tx, { tenantId: caller.tenantId, id }, to);
        await audit(tx, caller, changed, "changed", differences(row, changed));
        await tellRevoked(tx, caller.tenantId, context);
        return viewOf(changed);
      }),

    /** Throws ACCOUNT_NOT_FOUND, LAST_OWNER, FORBIDDEN. */
    disable: (id: string, context: RequestContext) =>
      database.transaction(scopeOf(context), async (tx) => {
        const caller = await changerOf(tx, context, "admin");
        const row = await changeable(tx, caller, id, kind);
        if (row.disabled_at !== null) return viewOf(row);
        await keepAnOwner(tx, caller, row);
        const disabled = await disableAccount(tx, caller.tenantId, id);
        await audit(tx, caller, disabled, "disabled", {});
        await tellRevoked(tx, caller.tenantId, context);
        return viewOf(disabled);
      }),
  };
}

async function make(tx: Tx, caller: Caller, kind: AccountKind, wanted: Wanted): Promise<Account> {
  refuse(grantFaults(caller, wanted));
  const email = wanted.email?.toLowerCase() ?? null;
  const { role, permissions } = wanted;
  const name = storable(wanted.name);
  const { tenantId } = caller;
  const made = { id: uuidv7(), tenantId, kind, email, name, role, permissions: unique(permissions) };
  const row = await insertAccount(tx, made);
  if (row === undefined) throw new MusterError("USER_ALREADY_EXISTS");
  await audit(tx, caller, row, "created", { role, permissions: row.permissions.join(" ") });
  return row;
}

async function found(tx: Tx, caller: Caller, id: string, kind: AccountKind): Promise<Account> {
  const row = await findAccount(tx, caller.tenantId, id, kind);
  if (row === undefined) throw new MusterError("ACCOUNT_NOT_FOUND");
  return row;
}

async function changeable(tx: Tx, caller: Caller, id: string, kind: AccountKind): Promise<Account> {
  const row = await found(tx, caller, id, kind);
  if (!mayChange(caller, row.role)) {
    refuse([{ path: "role", message: `only an ${row.role} can change an ${row.role}` }]);
  }
  return row;
}

async function keepAnOwner(tx: Tx, caller: Caller, row: Account): Promise<void> {
  if (row.kind !== "user" || row.role !== "owner") return;
  if (!(await hasOtherOwner(tx, caller.tenantId, row.id))) throw new MusterError("LAST_OWNER");
}

/** Throws FORBIDDEN unless there is nothing to refuse. */
export function refuse(details: { path: string; message: string }[]): void {
  if (details.length > 0) throw new MusterError("FORBIDDEN", undefined, { details });
}

const unique = (permissions: readonly string[]): string[] => [...new Set(permissions)];

function differences(before: Account, after: Account): Record<string, string> {
  const text = (row: Account) => ({
    name: row.name,
    role: row.role,
    permissions: row.permissions.join(" "),
  });
  const old = Object.entries(text(before));
  const now: Record<string, string> = text(after);
  return Object.fromEntries(old.flatMap(([key, was]) => (now[key] === was ? [] : [[key, now[key] ?? ""]])));
}

function audit(
  tx: Tx,
  caller: Caller,
  row: Account,
  what: "created" | "changed" | "disabled",
  details: Record<string, string>,
): Promise<void> {
  return recordAudit(tx, {
    tenantId: caller.tenantId,
    actor: caller.subject,
    action: `${row.kind}.${what}`,
    subject: `${row.kind}:${row.id}`,
    details: what === "created" && row.email !== null ? { email: row.email, ...details } : details,
  });
}
