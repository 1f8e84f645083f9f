import type { RequestContext } from "@muster/broker/broker";
import { MusterError } from "@muster/contracts/errors";
import { signingKeyKinds } from "@muster/contracts/signing-keys";
import type { SigningKeyKind, SigningKeysView, SigningKeyView } from "@muster/contracts/signing-keys";
import type { Tx } from "@muster/database/database";
import { recordAudit } from "../audit/store.ts";
import { callerOf, changerOf, refuseUnlessOperator } from "../caller.ts";
import { announce, applyStep } from "./keep.ts";
import type { Actor, Keeping } from "./keep.ts";
import { askedRotation, dueStep, rotationOf } from "./life.ts";
import type { LifeSettings } from "./life.ts";
import { factsOf, findKeys, findKindOf, lockSigningKeys, rememberAsked, revokeKey } from "./store.ts";
import type { KeyRow } from "./store.ts";

export interface KeyRequestParts extends Omit<Keeping, "kind" | "tokenTtlSeconds"> {
  /** Life of the tokens of each kind. */
  readonly tokenTtlSeconds: Readonly<Record<SigningKeyKind, number>>;
  /** Its owners may do what is here. */
  readonly operatorTenantId: string;
}

/** Throws FORBIDDEN but to owners of the operator's tenant. */
export async function listSigningKeys(
  { database, operatorTenantId, life }: KeyRequestParts,
  context: RequestContext,
): Promise<SigningKeysView> {
  const list = async (tx: Tx): Promise<SigningKeysView> => {
    refuseUnlessOperator(await callerOf(tx, context, "owner"), operatorTenantId);
    return await viewOf(tx, life);
  };
  return await database.transaction("system", list, { readOnly: true });
}

/**
 * Rotates now where the next key has been published for long enough, and else when it has been. Whoever asks again,
 * or while that rotation is new, is answered with it. Throws FORBIDDEN but to owners of the operator's tenant.
 */
export async function rotateSigningKey(
  parts: KeyRequestParts,
  kind: SigningKeyKind,
  context: RequestContext,
): Promise<SigningKeysView> {
  return await change(parts, context, async (tx, by) => {
    const { keys, nowMs } = await findKeys(tx, kind);
    const active = keys.find(({ status }) => status === "active");
    const asked = askedRotation(keys.map(factsOf), nowMs, parts.life);
    if (active === undefined || asked === "none") return;
    await rememberAsked(tx, active.kid);
    await recordAudit(tx, {
      ...by,
      action: "signing-key.rotation-asked",
      subject: `signing-key:${active.kid}`,
    });
    if (await settle(tx, keepingOf(parts, kind), by)) await announce(tx, kind, context);
  });
}

/**
 * From the commit on the key verifies nothing; where it was the one that signed, or the next one, another takes its
 * place at once. Throws SIGNING_KEY_NOT_FOUND; FORBIDDEN but to owners of the operator's tenant.
 */
export async function revokeSigningKey(
  parts: KeyRequestParts,
  kid: string,
  context: RequestContext,
): Promise<SigningKeysView> {
  return await change(parts, context, async (tx, by) => {
    const kind = await findKindOf(tx, kid);
    if (kind === undefined) throw new MusterError("SIGNING_KEY_NOT_FOUND");
    const { keys } = await findKeys(tx, kind);
    const key = keys.find((one) => one.kid === kid);
    if (key === undefined) throw new MusterError("SIGNING_KEY_NOT_FOUND");
    if (key.status === "revoked") return;
    await revokeKey(tx, kid);
    await recordAudit(tx, {
      ...by,
      action: "signing-key.revoked",
      subject: `signing-key:${kid}`,
      details: { was: key.status },
    });
    await settle(tx, keepingOf(parts, kind), by);
    await announce(tx, kind, context, [kid]);
  });
}

async function change(
  parts: KeyRequestParts,
  context: RequestContext,
  work: (tx: Tx, by: Actor) => Promise<void>,
): Promise<SigningKeysView> {
  return await parts.database.transaction("system", async (tx) => {
    const caller = await changerOf(tx, context, "owner");
    refuseUnlessOperator(caller, parts.operatorTenantId);
    await lockSigningKeys(tx);
    await work(tx, { tenantId: caller.tenantId, actor: caller.subject });
    return await viewOf(tx, parts.life);
  });
}

/** Takes the steps that follow from a change, so that its commit leaves a key that signs and one that is next. */
async function settle(tx: Tx, parts: Omit<Keeping, "database">, by: Actor): Promise<boolean> {
  for (let taken = false; ; taken = true) {
    const { keys, nowMs } = await findKeys(tx, parts.kind);
    const step = dueStep(keys.map(factsOf), nowMs, parts.life);
    if (step === undefined || step.kind === "remove") return taken;
    await applyStep(tx, parts, step, by);
  }
}

const keepingOf = (parts: KeyRequestParts, kind: SigningKeyKind) => ({
  ...parts,
  kind,
  tokenTtlSeconds: parts.tokenTtlSeconds[kind],
});

const listedMax = 200;

async function viewOf(tx: Tx, life: LifeSettings): Promise<SigningKeysView> {
  const keys: KeyRow[] = [];
  const rotates: Partial<Record<SigningKeyKind, string | null>> = {};
  for (const kind of signingKeyKinds) {
    const found = (await findKeys(tx, kind)).keys;
    const rotatesAtMs = rotationOf(found.map(factsOf), life);
    rotates[kind] = rotatesAtMs === undefined ? null : new Date(rotatesAtMs).toISOString();
    keys.push(...found);
  }
  const isRevoked = ({ status }: KeyRow) => status === "revoked";
  const listed = [...keys.filter((key) => !isRevoked(key)), ...keys.filter(isRevoked)].slice(0, listedMax);
  return {
    signing_keys: listed.map(keyViewOf),
    rotates_at: rotates.access ?? null,
    broker_rotates_at: rotates.broker ?? null,
  };
}

function keyViewOf(row: KeyRow): SigningKeyView {
  const text = (at: Date | null) => at?.toISOString() ?? null;
  return {
    kid: row.kid,
    kind: row.kind,
    alg: row.alg,
    status: row.status,
    created_at: row.created_at.toISOString(),
    activated_at: text(row.activated_at),
    retired_at: text(row.retired_at),
    verify_until: text(row.verify_until),
    revoked_at: text(row.revoked_at),
  };
}
