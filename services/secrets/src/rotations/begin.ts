import type { WorkContext } from "@muster/contracts/envelope";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import type { RotationView } from "@muster/contracts/rotations";
import type { Tx } from "@muster/database/database";
import type { Caller } from "../caller.ts";
import type { Place } from "../vaults/vault.ts";
import { findRotation, hasRunning, insertRotation, listFollowUps, rotationViewOf } from "./store.ts";

/** Under the secret's lock. Throws ROTATION_RUNNING. */
export async function refuseSecond(tx: Tx, tenantId: string, secretId: string): Promise<void> {
  if (await hasRunning(tx, tenantId, secretId)) throw new MusterError("ROTATION_RUNNING");
}

/**
 * Writes down what follows from a version that is being made current, in the same transaction, under the secret's lock. Null
 * where nothing does. Throws ROTATION_RUNNING.
 */
export async function beginRotation(
  tx: Tx,
  o: {
    readonly place: Place;
    /** The version that was current. */
    readonly from: number;
    readonly followUp: boolean;
    readonly rollback: boolean;
    readonly caller: Caller;
    readonly context: WorkContext;
  },
): Promise<RotationView | null> {
  const { tenantId, secretId, version: to } = o.place;
  await refuseSecond(tx, tenantId, secretId);
  // A version that was overtaken on its way to the vault was never current.
  if (!o.followUp || o.from > to) return null;
  const key = { tenantId, rotationId: uuidv7() };
  const { correlationId, traceparent } = o.context;
  const { from, rollback } = o;
  const requestedBy = o.caller.subject;
  const asked = { secretId, from, to, rollback, requestedBy, correlationId, traceparent };
  if (!(await insertRotation(tx, { ...key, ...asked }))) return null;
  const row = await findRotation(tx, key);
  if (row === undefined) throw new Error("a rotation that was just made is gone");
  return rotationViewOf(row, await listFollowUps(tx, key));
}
