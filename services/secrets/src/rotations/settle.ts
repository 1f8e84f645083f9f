import type { Tx } from "@muster/database/database";
import { lockSecret } from "../secrets/store.ts";
import { pointBackTo } from "../secrets/store-write.ts";
import { tell } from "../tell.ts";
import { judge } from "./decide.ts";
import type { Verdict } from "./decide.ts";
import { insertWayBack, listFollowUps, lockRotation, setRotationState, skipPending } from "./store.ts";
import type { RotationKey, RotationRow } from "./store.ts";

/**
 * Changes follow-ups of a rotation and draws the conclusion, in one transaction: the secret is locked, then the rotation, then
 * `change` is made. What changes after the end is written down and changes the end no more.
 */
export async function settle(
  tx: Tx,
  key: RotationKey & { readonly secretId: string },
  change?: () => Promise<void>,
): Promise<void> {
  const secret = await lockSecret(tx, key.tenantId, key.secretId);
  const rotation = await lockRotation(tx, key);
  await change?.();
  const { state } = rotation;
  if (state !== "running" && state !== "rolling_back") return;
  const ours = state === "running" ? rotation.to_version : rotation.from_version;
  const superseded = secret?.current_version !== ours;
  const look = async (): Promise<Verdict> => {
    const round = state === "running" ? 1 : 2;
    const rows = (await listFollowUps(tx, key)).filter((row) => row.round === round);
    const followUps = rows.map((row) => ({
      ...{ bindingId: row.binding_id, effect: row.effect },
      state: row.state === "pending" && row.asked ? ("running" as const) : row.state,
    }));
    return judge({ state, rollback: rotation.rollback, superseded, followUps });
  };
  let verdict = await look();
  if (verdict.kind === "skip") {
    await skipPending(tx, key);
    verdict = await look();
  }
  if (verdict.kind === "end") await end(tx, rotation, verdict);
  if (verdict.kind === "roll_back") await rollBack(tx, rotation, verdict.resend);
}

async function end(tx: Tx, rotation: RotationRow, verdict: Extract<Verdict, { kind: "end" }>): Promise<void> {
  await setRotationState(tx, keyOf(rotation), verdict);
  // That the version before is current again was told when it was made so.
  if (verdict.state === "rolled_back") return;
  const change = verdict.state === "succeeded" ? "rotation_succeeded" : "rotation_failed";
  await tellOf(tx, rotation, { change, version: rotation.to_version, reason: verdict.reason });
}

async function rollBack(tx: Tx, rotation: RotationRow, resend: readonly string[]): Promise<void> {
  const { tenant_id: tenantId, secret_id: secretId, from_version: version } = rotation;
  await pointBackTo(tx, { tenantId, secretId, version });
  await insertWayBack(tx, rotation, resend);
  const state = resend.length === 0 ? "rolled_back" : "rolling_back";
  const reason = "follow_up_failed";
  await setRotationState(tx, keyOf(rotation), { state, reason });
  await tellOf(tx, rotation, { change: "rolled_back", version, reason });
}

const keyOf = ({ id, tenant_id }: RotationRow): RotationKey => ({ tenantId: tenant_id, rotationId: id });

async function tellOf(
  tx: Tx,
  rotation: RotationRow,
  o: {
    readonly change: "rotation_succeeded" | "rotation_failed" | "rolled_back";
    readonly version: number;
    readonly reason: string | null;
  },
): Promise<void> {
  const { change, version, reason } = o;
  const details = { rotation: rotation.id, ...(reason === null ? {} : { reason }) };
  const { tenant_id: tenantId, secret_id: secretId, requested_by: actor } = rotation;
  const told = { tenantId, secretId, change, version, actor, details };
  const traceparent = rotation.traceparent ?? undefined;
  await tell(tx, told, { correlationId: rotation.correlation_id, traceparent });
}
