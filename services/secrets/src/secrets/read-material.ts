import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { sealedFor } from "@muster/contracts/secrets";
import type { secretsRequests } from "@muster/contracts/secrets";
import type { Tx } from "@muster/database/database";
import { askVault } from "../asking-vault.ts";
import { readerOf, scopeOf } from "../caller.ts";
import { tell } from "../tell.ts";
import { sealTo } from "../transport/boxes.ts";
import type { Place } from "../vaults/vault.ts";
import type { SecretParts } from "./keep.ts";
import { findSecret, findVersion } from "./store.ts";

type Read = (typeof secretsRequests)["readVersion"];

/**
 * Audited before anything leaves: who could not be written down gets nothing. Throws SECRET_NOT_FOUND,
 * SECRET_VERSION_NOT_FOUND, VAULT_….
 */
export async function readVersion(
  { database, vault }: SecretParts,
  { secret_id: secretId, version: asked, recipient }: PayloadOf<Read>,
  context: RequestContext,
): Promise<ReplyInputOf<Read>> {
  const caller = readerOf(context);
  const { tenantId, subject: actor } = caller;
  const place = await database.transaction(scopeOf(caller), async (tx) => {
    const found = await findPlace(tx, { tenantId, secretId, asked });
    await tell(tx, { tenantId, secretId, change: "read", version: found.version, actor }, context);
    return found;
  });
  const { version } = place;
  const call = { remainingMs: context.remainingMs, missing: "SECRET_VERSION_NOT_FOUND" } as const;
  const material = await askVault(call, (signal) => vault.read(place, signal));
  const about = sealedFor.read(tenantId, secretId, version);
  return { version, sealed: await sealTo(recipient.x, about, material) };
}

async function findPlace(
  tx: Tx,
  o: { tenantId: string; secretId: string; asked: number | undefined },
): Promise<Place> {
  const { tenantId, secretId } = o;
  const secret = await findSecret(tx, tenantId, secretId);
  if (secret === undefined || secret.state === "deleted") throw new MusterError("SECRET_NOT_FOUND");
  const version = o.asked ?? secret.current_version;
  if (version === null) throw new MusterError("SECRET_VERSION_NOT_FOUND");
  const place = { tenantId, secretId, version };
  if ((await findVersion(tx, place))?.state !== "kept") throw new MusterError("SECRET_VERSION_NOT_FOUND");
  return place;
}
