import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { secretsRequests } from "@muster/contracts/secrets";
import type { Tx } from "@muster/database/database";
import { callerOf } from "../caller.ts";
import type { Caller } from "../caller.ts";
import type { Place } from "../vaults/vault.ts";
import { fieldsOf } from "./create.ts";
import { keepVersion } from "./keep.ts";
import type { SecretParts } from "./keep.ts";
import { lockSecret } from "./store.ts";
import type { SecretRow } from "./store.ts";
import { countVersions, insertVersion, nextVersion } from "./store-write.ts";

type Requests = typeof secretsRequests;

/** Throws SECRET_NOT_FOUND, SECRET_VERSIONS_TOO_MANY, SEALING_KEY_UNKNOWN, IDEMPOTENCY_KEY_REUSED, VAULT_…. */
export async function addVersion(
  parts: SecretParts,
  { secret_id: secretId, sealed, idempotency_key: key }: PayloadOf<Requests["addVersion"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["addVersion"]>> {
  const caller = callerOf(context, "admin");
  const material = await parts.boxes.openMaterial(sealed, caller.tenantId);
  const { kept, replayed } = await keepVersion(parts, {
    ...{ caller, context, change: "version_added", material: () => Promise.resolve(material) },
    asked: { kind: "version", key, requested: { secret_id: secretId }, material },
    begin: (tx) => beginVersion(tx, parts, caller, secretId, () => fieldsOf(material)),
  });
  return { secret: kept.secret, version: kept.version, replayed };
}

/** On its way to the vault; `fieldsOf` what is current. Throws SECRET_NOT_FOUND, SECRET_VERSIONS_TOO_MANY. */
export async function beginVersion(
  tx: Tx,
  { limits }: SecretParts,
  { tenantId, subject: createdBy }: Caller,
  secretId: string,
  fieldsOf: (row: SecretRow) => string[],
): Promise<Place> {
  const row = await lockSecret(tx, tenantId, secretId);
  if (row === undefined || row.state === "deleted") throw new MusterError("SECRET_NOT_FOUND");
  if ((await countVersions(tx, tenantId, secretId)) >= limits.versionsMax)
    throw new MusterError("SECRET_VERSIONS_TOO_MANY");
  const place = { tenantId, secretId, version: await nextVersion(tx, tenantId, secretId) };
  await insertVersion(tx, { ...place, fields: fieldsOf(row), createdBy });
  return place;
}
