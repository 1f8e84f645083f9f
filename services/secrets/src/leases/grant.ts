import type { WorkContext } from "@muster/contracts/envelope";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { parseReference } from "@muster/contracts/secret-references";
import type { Tx } from "@muster/database/database";
import { bestBinding } from "../bindings/choose.ts";
import { lockBound } from "../bindings/store.ts";
import type { BoundRow, Whom } from "../bindings/store.ts";
import { findVersion } from "../secrets/store.ts";
import { tell } from "../tell.ts";
import { findHandover, insertHandover, insertLease, lockAttempt } from "./store.ts";
import type { Given, HandoverRow } from "./store.ts";

export interface Wanted {
  readonly whom: Whom;
  readonly agentId: string;
  readonly commandId: string;
  readonly attempt: number;
  readonly nonce: string;
  /** The key to seal to. */
  readonly recipient: string;
  readonly references: readonly string[];
  readonly leaseMs: number;
}

export interface Granted {
  readonly given: readonly Given[];
  readonly leaseMs: number;
}

/**
 * Decides what the attempt is given and writes down that it is, in one transaction, before anything leaves. The same question
 * again gets the same, as long as it still may; any other gets nothing. Throws SECRET_NOT_BOUND, SECRET_DISABLED,
 * SECRET_VERSION_NOT_FOUND, SECRET_FIELD_NOT_FOUND, SECRET_LEASE_USED, SECRET_LEASE_EXPIRED.
 */
export async function grant(tx: Tx, wanted: Wanted, context: WorkContext): Promise<Granted> {
  const key = { ...wanted, tenantId: wanted.whom.tenantId };
  await lockAttempt(tx, key);
  const before = await findHandover(tx, key);
  const bound = await lockBound(tx, namesOf(wanted.references), wanted.whom);
  if (before !== undefined) return again(before, wanted, bound);
  const given: Given[] = [];
  for (const reference of wanted.references) given.push(await decide(tx, reference, wanted.whom, bound));
  await insertHandover(tx, { ...key, given });
  await lease(tx, wanted, given, context);
  return { given, leaseMs: wanted.leaseMs };
}

const namesOf = (references: readonly string[]): string[] => [
  ...new Set(references.map((reference) => parsed(reference).name)),
];

function parsed(text: string) {
  const reference = parseReference(text);
  if (reference === undefined) throw new MusterError("VALIDATION_FAILED");
  return reference;
}

function again(before: HandoverRow, wanted: Wanted, bound: readonly BoundRow[]): Granted {
  const same =
    before.nonce === wanted.nonce &&
    before.recipient === wanted.recipient &&
    before.agent_id === wanted.agentId &&
    before.given.map(({ reference }) => reference).join() === wanted.references.join();
  if (!same) throw new MusterError("SECRET_LEASE_USED");
  for (const { binding_id } of before.given) {
    const row = bound.find((one) => one.binding_id === binding_id);
    if (row === undefined) throw new MusterError("SECRET_NOT_BOUND");
    if (row.state === "disabled") throw new MusterError("SECRET_DISABLED");
  }
  const leaseMs = Math.floor(before.left_ms);
  if (!before.lives || leaseMs < 1) throw new MusterError("SECRET_LEASE_EXPIRED");
  return { given: before.given, leaseMs };
}

/** Whether there is such a secret at all is not told to whom it is not bound. */
async function decide(tx: Tx, text: string, { tenantId }: Whom, bound: readonly BoundRow[]): Promise<Given> {
  const reference = parsed(text);
  const forName = bound.filter(
    ({ name, field }) =>
      name === reference.name &&
      (field === null || reference.field === undefined || field === reference.field),
  );
  const [secret] = forName;
  if (secret === undefined) throw new MusterError("SECRET_NOT_BOUND");
  if (secret.state === "disabled") throw new MusterError("SECRET_DISABLED");
  const version = reference.version ?? secret.current_version;
  const row = await findVersion(tx, { tenantId, secretId: secret.secret_id, version });
  if (row?.state !== "kept") throw new MusterError("SECRET_VERSION_NOT_FOUND");
  const field = reference.field ?? (row.fields.length === 1 ? row.fields[0] : undefined);
  const binding = field === undefined ? undefined : bestBinding(forName, field);
  if (field === undefined || (binding !== undefined && !row.fields.includes(field)))
    throw new MusterError("SECRET_FIELD_NOT_FOUND");
  if (binding === undefined) throw new MusterError("SECRET_NOT_BOUND");
  const { binding_id, appearance: as, secret_id } = binding;
  return { reference: text, secret_id, version, field, as, binding_id };
}

/** One for each version of a secret, however many of its fields are given. */
async function lease(tx: Tx, wanted: Wanted, given: readonly Given[], context: WorkContext): Promise<void> {
  const { tenantId, vmUuid } = wanted.whom;
  const versions = new Map(given.map((one) => [`${one.secret_id}@${one.version}`, one]));
  for (const { secret_id: secretId, version } of versions.values()) {
    const id = uuidv7();
    await insertLease(tx, { ...wanted, tenantId }, { id, secretId, version, vmUuid });
    const told = { tenantId, secretId, version, change: "leased", actor: `agent:${wanted.agentId}` } as const;
    const { commandId, attempt } = wanted;
    const details = { lease: id, command: commandId, attempt: String(attempt), vm: vmUuid };
    await tell(tx, { ...told, details }, context);
  }
}
