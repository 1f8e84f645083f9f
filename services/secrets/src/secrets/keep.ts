import type { RequestContext } from "@muster/broker/broker";
import { MusterError } from "@muster/contracts/errors";
import { rotationView } from "@muster/contracts/rotations";
import type { RotationView } from "@muster/contracts/rotations";
import { secretView, versionView } from "@muster/contracts/secrets";
import type { Material } from "@muster/contracts/secrets";
import type { Database, Tx } from "@muster/database/database";
import { z } from "zod";
import { askVault } from "../asking-vault.ts";
import { scopeOf } from "../caller.ts";
import type { Caller } from "../caller.ts";
import { answerCreation, findCreation, insertCreation } from "../creations.ts";
import type { Asked } from "../creations.ts";
import type { Keys } from "../keys/keys.ts";
import type { FollowUps } from "../rotations/send.ts";
import { tell } from "../tell.ts";
import type { Boxes } from "../transport/boxes.ts";
import { VaultError } from "../vaults/vault.ts";
import type { Place, Vault } from "../vaults/vault.ts";
import { findVersion, lockSecret, secretViewOf, versionViewOf } from "./store.ts";
import { abandon, makeCurrent, markKept } from "./store-write.ts";

export interface SecretLimits {
  readonly perTenantMax: number;
  readonly versionsMax: number;
  readonly bindingsMax: number;
}

/** What handlers of secrets touch. */
export interface SecretParts {
  readonly database: Pick<Database, "transaction">;
  readonly vault: Pick<Vault, "kind" | "write" | "read" | "destroy">;
  readonly keys: Keys;
  readonly boxes: Boxes;
  readonly limits: SecretLimits;
  readonly followUps: Pick<FollowUps, "wake">;
}

export interface Begun {
  readonly place: Place;
  /** The request before this one under the same key got so far, and was not heard of again. */
  readonly again: boolean;
}

export interface Keeping {
  readonly caller: Caller;
  readonly asked: Asked;
  readonly context: RequestContext;
  readonly change: "created" | "version_added" | "rotated";
  /** Writes down that a version is on its way to the vault. */
  begin(tx: Tx): Promise<Place>;
  /** What goes there; asked for once it is written down that it will. */
  material(): Promise<Material>;
  /** What follows from it, written down when it is there; `from` was current until then. */
  follow?(tx: Tx, o: { readonly place: Place; readonly from: number | null }): Promise<RotationView | null>;
}

const kept = z.object({
  secret: secretView,
  version: versionView,
  rotation: rotationView.nullable().default(null),
});
export type Kept = z.output<typeof kept>;

/**
 * A version goes into the vault between two transactions: the first says that it is on its way, the second that it is there.
 * Whoever crashes between them leaves a row that the sweep finds, with what it may have left in the vault; the same request
 * again under its key goes on from there.
 */
export async function keepVersion(
  parts: SecretParts,
  keeping: Keeping,
): Promise<{ kept: Kept; replayed: boolean }> {
  const { database } = parts;
  const { caller, asked } = keeping;
  const begun = await database.transaction(scopeOf(caller), async (tx) => {
    const before = await findCreation(tx, parts.keys, caller, asked);
    if (before?.answer !== undefined) return { answer: kept.parse(before.answer) };
    if (before !== undefined) return { place: placeOf(caller, before), again: true };
    const place = await keeping.begin(tx);
    const { secretId, version } = place;
    await insertCreation(tx, parts.keys, caller, { asked, secretId, version, answer: undefined });
    return { place, again: false };
  });
  if ("answer" in begun) return { kept: begun.answer, replayed: true };
  await write(parts, keeping, begun);
  try {
    return await database.transaction(scopeOf(caller), (tx) => finish(tx, parts, keeping, begun));
  } catch (error) {
    // Of two at once the other was quicker: nobody was told of this version yet.
    if (error instanceof MusterError && error.code === "ROTATION_RUNNING")
      await database.transaction(scopeOf(caller), (tx) => abandon(tx, begun.place));
    throw error;
  }
}

function placeOf({ tenantId }: Caller, made: { secretId: string; version: number | null }): Place {
  if (made.version === null) throw new Error("a creation of material has a version");
  return { tenantId, secretId: made.secretId, version: made.version };
}

async function write(parts: SecretParts, keeping: Keeping, { place, again }: Begun): Promise<void> {
  const { remainingMs } = keeping.context;
  try {
    const material = await keeping.material();
    await askVault({ remainingMs }, (signal) => parts.vault.write(place, material, signal));
  } catch (error) {
    // A value that was generated is another one each time; the first that got there is as good.
    if (again && isConflict(error)) return;
    await parts.database.transaction(scopeOf(keeping.caller), (tx) => abandon(tx, place));
    throw error;
  }
}

const isConflict = (error: unknown): boolean =>
  error instanceof MusterError && error.cause instanceof VaultError && error.cause.fault === "conflict";

async function finish(
  tx: Tx,
  parts: SecretParts,
  { caller, asked, context, change, follow }: Keeping,
  { place }: Begun,
): Promise<{ kept: Kept; replayed: boolean }> {
  const { tenantId, secretId, version } = place;
  const from = await lockForFinish(tx, place);
  if (!(await markKept(tx, place))) {
    // Somebody else has finished it under the same key, or it was given up meanwhile.
    const before = await findCreation(tx, parts.keys, caller, asked);
    if (before?.answer !== undefined) return { kept: kept.parse(before.answer), replayed: true };
    throw new MusterError("DEPENDENCY_UNAVAILABLE", "this version was given up meanwhile", {
      retryAfterMs: 1_000,
    });
  }
  await makeCurrent(tx, place, { rotated: change === "rotated" });
  const rotation = (await follow?.(tx, { place, from })) ?? null;
  const secret = await lockSecret(tx, tenantId, secretId);
  const row = await findVersion(tx, place);
  if (secret === undefined || row === undefined) throw new Error("what was kept is not there");
  const details = rotation === null ? {} : { rotation: rotation.id };
  await tell(tx, { tenantId, secretId, change, version, actor: caller.subject, details }, context);
  const answer: Kept = { secret: secretViewOf(secret), version: versionViewOf(row), rotation };
  await answerCreation(tx, caller, asked, answer);
  return { kept: answer, replayed: false };
}

/** Locks the secret and tells its current version; what was deleted meanwhile gets no version more. Throws SECRET_NOT_FOUND. */
async function lockForFinish(tx: Tx, { tenantId, secretId }: Place): Promise<number | null> {
  const [row] = await tx.query<{ state: string; current_version: number | null }>(
    "SELECT state, current_version FROM secrets WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE",
    [tenantId, secretId],
  );
  if (row === undefined || row.state === "deleted") throw new MusterError("SECRET_NOT_FOUND");
  return row.current_version;
}
