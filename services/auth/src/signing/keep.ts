import { prepareEvent } from "@muster/broker/prepare";
import type { WorkContext } from "@muster/contracts/envelope";
import { uuidv7 } from "@muster/contracts/ids";
import { signingKeysChanged, type SigningKeyKind } from "@muster/contracts/signing-keys";
import type { Database, Tx } from "@muster/database/database";
import { recordAudit } from "../audit/store.ts";
import { newKeyPair, openedKey, sealedAnew } from "./key-pair.ts";
import { dueStep } from "./life.ts";
import type { KeyStep, LifeSettings } from "./life.ts";
import type { Sealer } from "./sealed.ts";
import {
  activateKey,
  factsOf,
  findKeys,
  findSealed,
  insertKey,
  lockSealedOtherwise,
  lockSigningKeys,
  removeKeys,
  retireKey,
  sealKey,
} from "./store.ts";

export interface Keeping {
  readonly kind: SigningKeyKind;
  readonly database: Pick<Database, "transaction">;
  readonly sealer: Sealer;
  /** Life of the tokens that this process signs. */
  readonly tokenTtlSeconds: number;
  readonly life: LifeSettings;
}

/** Who is told of in the audit. */
export interface Actor {
  /** Null: the system itself. */
  readonly tenantId: string | null;
  readonly actor: string;
}
export const schedule: Actor = { tenantId: null, actor: "auth" };

/** More than follow from one another: made, rotated, made, removed. */
const stepsMax = 10;

/** Does what is due, each step a transaction of its own; any number of processes at once do it once. */
export async function keepKeys(keeping: Keeping): Promise<KeyStep[]> {
  const done: KeyStep[] = [];
  while (done.length < stepsMax) {
    const step = await takeStep(keeping);
    if (step === undefined) break;
    done.push(step);
  }
  return done;
}

/**
 * Seals with the key of now what the other one sealed; answers which. At starts only: while one process after the other is
 * given the new key, those that were not yet would seal with the old one again.
 */
export async function sealAnew({
  database,
  sealer,
}: Pick<Keeping, "database" | "sealer">): Promise<string[]> {
  const { other } = sealer;
  if (other === undefined) return [];
  return await database.transaction("system", async (tx) => {
    await lockSigningKeys(tx);
    const rows = (await lockSealedOtherwise(tx, sealer.id)).filter((row) => row.sealed_with === other.id);
    for (const row of rows) {
      await sealKey(tx, sealedAnew(row, sealer));
      await recordAudit(tx, {
        ...schedule,
        action: "signing-key.sealed-anew",
        subject: `signing-key:${row.kid}`,
        details: { from: other.id, to: sealer.id },
      });
    }
    return rows.map(({ kid }) => kid);
  });
}

async function takeStep({ database, ...keeping }: Keeping): Promise<KeyStep | undefined> {
  const look = async (tx: Tx) => {
    const { keys, nowMs } = await findKeys(tx, keeping.kind);
    return dueStep(keys.map(factsOf), nowMs, keeping.life);
  };
  // Most looks find nothing, and wait for nobody.
  if ((await database.transaction("system", look, { readOnly: true })) === undefined) return undefined;
  return await database.transaction("system", async (tx) => {
    await lockSigningKeys(tx);
    const step = await look(tx);
    if (step === undefined) return undefined;
    await applyStep(tx, keeping, step, schedule);
    await announce(tx, keeping.kind, { correlationId: uuidv7() });
    return step;
  });
}

/** Tells every process that verifies of what this transaction has changed; goes out with its commit. */
export async function announce(
  tx: Tx,
  kind: SigningKeyKind,
  context: WorkContext,
  revoked: readonly string[] = [],
): Promise<void> {
  const { keys, nowMs } = await findKeys(tx, kind);
  const active = keys.find(({ status }) => status === "active");
  if (active === undefined) throw new Error("no key signs");
  const published = keys
    .filter(({ status, verify_until }) => status !== "revoked" && (verify_until?.getTime() ?? nowMs) >= nowMs)
    .map(({ kid }) => kid);
  const { correlationId, causationId, traceparent } = context;
  tx.publish(
    prepareEvent(
      signingKeysChanged,
      { kind, active: active.kid, published, revoked: [...revoked], at: new Date(nowMs).toISOString() },
      { context: { correlationId, causationId, traceparent } },
    ),
  );
}

/** Under the lock. Throws when the key that is to sign cannot be opened: then the one before signs on. */
export async function applyStep(
  tx: Tx,
  { kind, sealer, tokenTtlSeconds }: Pick<Keeping, "kind" | "sealer" | "tokenTtlSeconds">,
  step: KeyStep,
  by: Actor,
): Promise<void> {
  const audit = (action: string, kid: string) =>
    recordAudit(tx, {
      ...by,
      action: `signing-key.${action}`,
      subject: `signing-key:${kid}`,
      details: { kind },
    });
  if (step.kind === "make") {
    const made = await newKeyPair(sealer);
    await insertKey(tx, made, { kind, status: step.status, tokenTtlSeconds });
    await audit("created", made.kid);
    if (step.status === "active") await audit("activated", made.kid);
  } else if (step.kind === "rotate") {
    const sealed = await findSealed(tx, step.to);
    if (sealed === undefined) throw new Error(`signing key ${step.to} has no private half`);
    openedKey(sealed, sealer);
    if (step.from !== undefined) {
      await retireKey(tx, step.from);
      await audit("retired", step.from);
    }
    await activateKey(tx, step.to);
    await audit("activated", step.to);
  } else {
    await removeKeys(tx, step.kids);
    for (const kid of step.kids) await audit("removed", kid);
  }
}
