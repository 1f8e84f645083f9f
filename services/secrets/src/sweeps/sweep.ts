import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import type { secretsRequests } from "@muster/contracts/secrets";
import type { Database } from "@muster/database/database";
import { pruneInbox } from "@muster/database/inbox";
import type { Logger } from "@muster/telemetry/logger";
import { expireLeases } from "../leases/store.ts";
import type { FollowUps } from "../rotations/send.ts";
import { abandon, findUnfinished, markDestroyed, postpone } from "../secrets/store-write.ts";
import type { Place, Vault } from "../vaults/vault.ts";

export interface SweepParts {
  readonly database: Database;
  readonly vault: Pick<Vault, "destroy">;
  readonly followUps: Pick<FollowUps, "look">;
  /** What has been unfinished for so long was left by a crash. */
  readonly unfinishedMs: number;
  readonly logger: Logger;
}

type Sweep = (typeof secretsRequests)["sweepSecrets"];

/** Longer than any message may still come again. */
const inboxKeptMs = 7 * 86_400_000;
const vaultTimeoutMs = 5_000;
/** Destroyed in one go at most: each is a call to the vault. */
const destroyedMax = 100;

/** Leases whose time is up end; what a crash has left half written is given up; what is to be destroyed is; follow-ups that are due are sent. */
export async function sweepSecrets(
  parts: SweepParts,
  { limit }: PayloadOf<Sweep>,
): Promise<ReplyInputOf<Sweep>> {
  const { database, unfinishedMs: olderThanMs } = parts;
  const expired = await database.transaction("system", (tx) => expireLeases(tx, limit));
  await pruneInbox(database, inboxKeptMs, limit);
  const most = Math.min(limit, destroyedMax);
  await database.transaction("system", async (tx) => {
    const writing = await findUnfinished(tx, { state: "writing", olderThanMs, limit: most });
    for (const place of writing) await abandon(tx, place);
  });
  // Those that were given up just now are left for a while: the vault may still be at work on them.
  const destroying = await database.transaction("system", (tx) =>
    findUnfinished(tx, { state: "destroying", olderThanMs, limit: most }),
  );
  const looked = await parts.followUps.look();
  let cleared = 0;
  for (const place of destroying) if (await destroy(parts, place)) cleared += 1;
  return { expired, cleared, more: looked.more || expired === limit || (cleared > 0 && cleared === most) };
}

async function destroy({ database, vault, logger }: SweepParts, place: Place): Promise<boolean> {
  try {
    await vault.destroy(place, AbortSignal.timeout(vaultTimeoutMs));
    await database.transaction("system", (tx) => markDestroyed(tx, place));
    return true;
  } catch (error) {
    const { tenantId: tenant, secretId, version } = place;
    logger.warn({ err: error, tenant, secret_id: secretId, version }, "a version could not be destroyed yet");
    await database.transaction("system", (tx) => postpone(tx, place));
    return false;
  }
}
