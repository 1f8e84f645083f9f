import type { RequestContext } from "@muster/broker/broker";
import { MusterError } from "@muster/contracts/errors";
import type { LeaseView, SecretView } from "@muster/contracts/secrets";
import type { Tx } from "@muster/database/database";
import { askVault } from "../asking-vault.ts";
import { removeBindingsOf } from "../bindings/store.ts";
import { callerOf, scopeOf } from "../caller.ts";
import type { Caller } from "../caller.ts";
import { listHolders } from "../leases/store.ts";
import { tell } from "../tell.ts";
import type { SecretParts } from "./keep.ts";
import { lockSecret, markDeleted, secretViewOf, setState } from "./store.ts";
import type { SecretRow } from "./store.ts";
import { findDestroying, markDestroyed } from "./store-write.ts";

interface WithHolders {
  readonly secret: SecretView;
  readonly held_by: LeaseView[];
}

/** Throws SECRET_NOT_FOUND. */
export async function disableSecret(
  parts: Pick<SecretParts, "database">,
  id: string,
  context: RequestContext,
): Promise<WithHolders> {
  const caller = callerOf(context, "admin");
  return await parts.database.transaction(scopeOf(caller), async (tx) => {
    const secret = await changed(tx, { caller, id, context, to: "disabled" });
    // Under the secret's lock: whoever was given it before is in there, and nobody is from now on.
    return { secret, held_by: await listHolders(tx, caller.tenantId, id) };
  });
}

/** Throws SECRET_NOT_FOUND. */
export async function enableSecret(
  parts: Pick<SecretParts, "database">,
  id: string,
  context: RequestContext,
): Promise<SecretView> {
  const caller = callerOf(context, "admin");
  return await parts.database.transaction(scopeOf(caller), (tx) =>
    changed(tx, { caller, id, context, to: "enabled" }),
  );
}

interface Change {
  readonly caller: Caller;
  readonly id: string;
  readonly context: RequestContext;
  readonly to: "enabled" | "disabled";
}

async function changed(tx: Tx, { caller, id, context, to }: Change): Promise<SecretView> {
  const { tenantId, subject: actor } = caller;
  const before = await lockSecret(tx, tenantId, id);
  if (before === undefined || before.state === "deleted") throw new MusterError("SECRET_NOT_FOUND");
  if (before.state === to) return secretViewOf(before);
  await setState(tx, tenantId, id, to);
  await tell(tx, { tenantId, secretId: id, change: to, version: before.current_version, actor }, context);
  return secretViewOf(await reread(tx, tenantId, id));
}

async function reread(tx: Tx, tenantId: string, id: string): Promise<SecretRow> {
  const row = await lockSecret(tx, tenantId, id);
  if (row === undefined) throw new Error("a locked secret is gone");
  return row;
}

/**
 * Given to nobody from the first transaction on; then its material is destroyed. What the vault does not take now, the same
 * request again or the sweep destroys. Throws SECRET_NOT_FOUND, VAULT_….
 */
export async function deleteSecret(
  { database, vault }: SecretParts,
  id: string,
  context: RequestContext,
): Promise<WithHolders> {
  const caller = callerOf(context, "admin");
  const { tenantId, subject: actor } = caller;
  const { places, ...answer } = await database.transaction(scopeOf(caller), async (tx) => {
    const before = await lockSecret(tx, tenantId, id);
    if (before === undefined) throw new MusterError("SECRET_NOT_FOUND");
    if (before.state !== "deleted") {
      await markDeleted(tx, tenantId, id);
      await removeBindingsOf(tx, tenantId, id);
      await tell(tx, { tenantId, secretId: id, change: "deleted", version: null, actor }, context);
    }
    const secret = secretViewOf(await reread(tx, tenantId, id));
    const held_by = await listHolders(tx, tenantId, id);
    return { secret, held_by, places: await findDestroying(tx, tenantId, id) };
  });
  const signalled = { remainingMs: context.remainingMs };
  await askVault(signalled, async (signal) => {
    for (const place of places) {
      await vault.destroy(place, signal);
      await database.transaction(scopeOf(caller), (tx) => markDestroyed(tx, place));
    }
  });
  return answer;
}
