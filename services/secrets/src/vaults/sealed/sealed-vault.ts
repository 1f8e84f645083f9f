import { isDeepStrictEqual } from "node:util";
import { MusterError } from "@muster/contracts/errors";
import { material as materialSchema } from "@muster/contracts/secrets";
import type { Material } from "@muster/contracts/secrets";
import type { Database } from "@muster/database/database";
import { SettingsError } from "@muster/service/settings";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { findKey } from "../../keys/keys.ts";
import type { Keys } from "../../keys/keys.ts";
import { VaultError } from "../vault.ts";
import type { Place, Vault } from "../vault.ts";
import { openVersion, sealVersion } from "./envelope.ts";
import type { Envelope } from "./envelope.ts";
import { openRewrapping } from "./rewrap.ts";
import { destroySealed, findKekIds, findSealed, insertSealed } from "./store.ts";

export const sealedVaultSchema = "sealed_vault";

export interface SealedVaultOptions {
  /** Of the vault's own role; closed with the vault. */
  readonly database: Database;
  readonly keys: Keys;
  readonly rewrapEveryMs: number;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** The embedded vault. Throws SettingsError when it holds what none of the keys opens. */
export async function openSealedVault(o: SealedVaultOptions): Promise<Vault> {
  const { database, keys } = o;
  try {
    await refuseWrongKeys(database, keys);
  } catch (error) {
    await database.close();
    throw error;
  }
  const rewrapping = openRewrapping({ ...o, everyMs: o.rewrapEveryMs });
  return {
    kind: "sealed",
    check: (signal) => within(signal, () => refuseWrongKeys(database, keys)),
    write: (place, material, signal) => within(signal, () => write(o, place, material)),
    read: (place, signal) => within(signal, () => read(o, place)),
    destroy: (place, signal) =>
      within(signal, () => database.transaction(scopeOf(place), (tx) => destroySealed(tx, place))),
    async close() {
      await rewrapping.close();
      await database.close();
    },
  };
}

const scopeOf = ({ tenantId }: Place) => ({ tenants: [tenantId] });

/** Each key that anything is wrapped by must be there, and open it. */
async function refuseWrongKeys(database: Database, keys: Keys): Promise<void> {
  const used = await database.transaction("system", findKekIds, { readOnly: true });
  for (const { kekId, place, envelope } of used) {
    if (findKey(keys, kekId) !== undefined && canOpen(envelope, place, keys)) continue;
    throw new SettingsError([
      {
        name: "MUSTER_SECRETS_KEY_ENCRYPTION_KEY",
        rule: `must be the key ${kekId} that the sealed vault was sealed by, or that one must be given as MUSTER_SECRETS_KEY_ENCRYPTION_KEY_PREVIOUS while it is changed`,
        value: `the key ${keys.current.id}`,
      },
    ]);
  }
}

function canOpen(envelope: Envelope, place: Place, keys: Keys): boolean {
  try {
    opened(envelope, place, keys);
    return true;
  } catch {
    return false;
  }
}

async function write(
  { database, keys }: SealedVaultOptions,
  place: Place,
  material: Material,
): Promise<void> {
  const plain = Buffer.from(JSON.stringify(material));
  const kept = await database.transaction(scopeOf(place), async (tx) => {
    const inserted = await insertSealed(tx, place, sealVersion(plain, place, keys.current));
    // Somebody may have wrapped it anew meanwhile: what is there now is read after the insert has waited for it.
    return inserted ? "inserted" : await findSealed(tx, place);
  });
  if (kept === "inserted") return;
  if (kept === "destroyed" || kept === undefined)
    throw new VaultError("conflict", "this version was destroyed");
  if (!isDeepStrictEqual(opened(kept, place, keys), material))
    throw new VaultError("conflict", "this version is kept already, with other material");
}

async function read({ database, keys }: SealedVaultOptions, place: Place): Promise<Material> {
  const find = () => database.transaction(scopeOf(place), (tx) => findSealed(tx, place), { readOnly: true });
  const kept = await find();
  if (kept === undefined || kept === "destroyed") throw new VaultError("missing", "nothing is kept there");
  return opened(kept, place, keys);
}

function opened(envelope: Envelope, place: Place, keys: Keys): Material {
  const kek = findKey(keys, envelope.kekId);
  if (kek === undefined)
    throw new VaultError("garbled", `it is wrapped by the key ${envelope.kekId}, which is not known here`);
  let plain: Buffer;
  try {
    plain = openVersion(envelope, place, kek);
  } catch (cause) {
    throw new VaultError("garbled", "what is kept there does not open", { cause });
  }
  const parsed = materialSchema.safeParse(jsonOf(plain));
  // Without the cause: it could quote what it read.
  if (!parsed.success) throw new VaultError("garbled", "what is kept there is no material");
  return parsed.data;
}

function jsonOf(plain: Buffer): unknown {
  try {
    return JSON.parse(plain.toString("utf8"));
  } catch {
    return undefined;
  }
}

/** Ends with the signal, whatever the database does, and begins nothing after it; throws VaultError. */
async function within<T>(signal: AbortSignal, begin: () => Promise<T>): Promise<T> {
  const tooLate = () => new VaultError("unavailable", "the vault did not answer in time");
  if (signal.aborted) throw tooLate();
  let abort = () => {};
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(tooLate());
    signal.addEventListener("abort", abort, { once: true });
  });
  const work = begin();
  work.catch(() => undefined);
  try {
    return await Promise.race([work, aborted]);
  } catch (error) {
    throw error instanceof VaultError ? error : faultOf(error);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

function faultOf(error: unknown): VaultError {
  if (error instanceof SettingsError) return new VaultError("garbled", error.message, { cause: error });
  const retryAfterMs = error instanceof MusterError ? error.retryAfterMs : undefined;
  return new VaultError("unavailable", "the vault's database does not answer", {
    retryAfterMs,
    cause: error,
  });
}
