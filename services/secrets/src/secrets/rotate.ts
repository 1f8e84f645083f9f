import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { Material, secretsRequests } from "@muster/contracts/secrets";
import { askVault } from "../asking-vault.ts";
import { callerOf, scopeOf } from "../caller.ts";
import type { Caller } from "../caller.ts";
import { beginRotation, refuseSecond } from "../rotations/begin.ts";
import { fieldsOf } from "./create.ts";
import { generate } from "./generate.ts";
import { keepVersion } from "./keep.ts";
import type { SecretParts } from "./keep.ts";
import { beginVersion } from "./new-version.ts";
import { findSecret } from "./store.ts";
import type { SecretRow } from "./store.ts";

type Rotate = (typeof secretsRequests)["rotateSecret"];

/**
 * A generated value takes the place of one field; the others stay as they are. What follows from it is written down with it, and
 * sent thereafter. Throws ROTATION_RUNNING, SECRET_NOT_FOUND, SECRET_VERSIONS_TOO_MANY, SEALING_KEY_UNKNOWN,
 * IDEMPOTENCY_KEY_REUSED, VAULT_….
 */
export async function rotateSecret(
  parts: SecretParts,
  payload: PayloadOf<Rotate>,
  context: RequestContext,
): Promise<ReplyInputOf<Rotate>> {
  const { secret_id: secretId, value, idempotency_key: key, follow_up: followUp, rollback } = payload;
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
      requested: {
        ...{ secret_id: secretId, follow_up: followUp, rollback },
        ...(wanted === undefined ? {} : { generate: wanted }),
      },
      ...(given === undefined ? {} : { material: given }),
    },
    begin: async (tx) => {
      const place = await beginVersion(tx, parts, caller, secretId, (row) => {
        current = row;
        if (given !== undefined) return fieldsOf(given);
        return [...new Set([...(row.fields ?? []), wanted?.field ?? ""])].sort();
      });
      // Before the vault is asked for nothing; that it still is the only one is looked at again when it is made current.
      await refuseSecond(tx, caller.tenantId, secretId);
      return place;
    },
    follow: (tx, { place, from }) => {
      if (from === null) throw new Error("a secret that is rotated has a current version");
      return beginRotation(tx, { place, from, followUp, rollback, caller, context });
    },
  });
  if (kept.rotation !== null) parts.followUps.wake();
  return { ...kept, replayed };
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
