import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import type { secretsRequests } from "@muster/contracts/secrets";
import type { Tx } from "@muster/database/database";
import { callerOf } from "../caller.ts";
import { keepVersion } from "./keep.ts";
import type { SecretParts } from "./keep.ts";
import { countSecrets, insertSecret, lockTenant } from "./store.ts";
import { insertVersion } from "./store-write.ts";

type Create = (typeof secretsRequests)["createSecret"];

/** Throws SECRET_ALREADY_EXISTS, SECRETS_TOO_MANY, SEALING_KEY_UNKNOWN, IDEMPOTENCY_KEY_REUSED, VAULT_…. */
export async function createSecret(
  parts: SecretParts,
  { secret: wanted, sealed, idempotency_key: key }: PayloadOf<Create>,
  context: RequestContext,
): Promise<ReplyInputOf<Create>> {
  const caller = callerOf(context, "admin");
  const material = await parts.boxes.openMaterial(sealed, caller.tenantId);
  const { tenantId, subject: createdBy } = caller;
  const begin = async (tx: Tx) => {
    await lockTenant(tx, tenantId);
    if ((await countSecrets(tx, tenantId)) >= parts.limits.perTenantMax)
      throw new MusterError("SECRETS_TOO_MANY");
    const place = { tenantId, secretId: uuidv7(), version: 1 };
    const row = { ...wanted, id: place.secretId, tenantId, vault: parts.vault.kind, createdBy };
    if (!(await insertSecret(tx, row))) throw new MusterError("SECRET_ALREADY_EXISTS");
    await insertVersion(tx, { ...place, fields: fieldsOf(material), createdBy });
    return place;
  };
  const { kept, replayed } = await keepVersion(parts, {
    ...{ caller, context, begin, change: "created", material: () => Promise.resolve(material) },
    asked: { kind: "secret", key, requested: wanted, material },
  });
  return { secret: kept.secret, replayed };
}

/** Names alone, in order. */
export const fieldsOf = (material: Readonly<Record<string, string>>): string[] =>
  Object.keys(material).sort();
