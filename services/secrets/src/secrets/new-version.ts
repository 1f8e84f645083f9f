import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { Material, secretsRequests } from "@muster/contracts/secrets";
import type { Tx } from "@muster/database/database";
import { askVault } from "../asking-vault.ts";
import { callerOf, scopeOf } from "../caller.ts";
import type { Caller } from "../caller.ts";
import type { Place } from "../vaults/vault.ts";
import { fieldsOf } from "./create.ts";
import { generate } from "./generate.ts";
import { keepVersion } from "./keep.ts";
import type { SecretParts } from "./keep.ts";
import { findSecret, lockSecret } from "./store.ts";
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
  return { ...kept, replayed };
}

/**
 * A generated value takes the place of one field; the others stay as they are. Throws SECRET_NOT_FOUND,
 * SECRET_VERSIONS_TOO_MANY, SEALING_KEY_UNKNOWN, IDEMPOTENCY_KEY_REUSED, VAULT_….
 */
export async function rotateSecret(
  parts: SecretParts,
  { secret_id: secretId, value, idempotency_key: key }: PayloadOf<Requests["rotateSecret"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["rotateSecret"]>> {
  const caller = callerOf(context, "admin");
  const given = "sealed" in value ? await parts.boxes.openMaterial(value.sealed, caller.tenantId) : undefined;
  const wanted = "generate" in value ? value.generate : undefined;
  let current: SecretRow | undefined;
  const material = async (): Promise<Material> => {
    if (given !== undefined) return given;
    if (wanted === undefined) throw new Error("a rotation has a value or a generator");
    const others = await otherFields(parts, { caller, secretId, context, current, field: wanted.field });
    return { ...others, [wanted.field]: generate(wanted) };
  };
  const { kept, replayed } = await keepVersion(parts, {
    ...{ caller, context, change: "rotated", material },
    asked: {
      ...{ kind: "rotation", key },
      requested: { secret_id: secretId, ...(wanted === undefined ? {} : { generate: wanted }) },
      ...(given === undefined ? {} : { material: given }),
    },
    begin: (tx) =>
      beginVersion(tx, parts, caller, secretId, (row) => {
        current = row;
        if (given !== undefined) return fieldsOf(given);
        return [...new Set([...(row.fields ?? []), wanted?.field ?? ""])].sort();
      }),
  });
  return { ...kept, replayed };
}

async function beginVersion(
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

/** Of the version that was current when the new one began, without the field that is replaced. */
async function otherFields(
  { database, vault }: SecretParts,
  o: {
    readonly caller: Caller;
    readonly secretId: string;
    readonly context: RequestContext;
    readonly current: SecretRow | undefined;
    readonly field: string;
  },
): Promise<Material> {
  const { tenantId } = o.caller;
  const find = () =>
    database.transaction(scopeOf(o.caller), (tx) => findSecret(tx, tenantId, o.secretId), { readOnly: true });
  const row = o.current ?? (await find());
  const version = row?.current_version ?? null;
  if (row === undefined || version === null) throw new MusterError("SECRET_NOT_FOUND");
  if ((row.fields ?? []).every((field) => field === o.field)) return {};
  const { remainingMs } = o.context;
  const place = { tenantId, secretId: o.secretId, version };
  const { [o.field]: _replaced, ...others } = await askVault({ remainingMs: remainingMs / 2 }, (signal) =>
    vault.read(place, signal),
  );
  return others;
}
