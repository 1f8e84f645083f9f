import type { deadLetterRecorded } from "@muster/contracts/reliability";
import type { EventItem } from "@muster/broker/broker";
import type { Tx } from "@muster/database/database";
import type { VmOpsMetrics } from "../metrics.ts";
import { requeuePolicy } from "./requeue-policy.ts";
import { keyOf, lockCommands, transitionOf, writeTransitions } from "./store.ts";
import type { Written } from "./store.ts";

/** What the broker gave up of VMs' queues: the other hand of the requeue policy. */
export async function judgeDeadLetters(
  tx: Tx,
  metrics: VmOpsMetrics,
  events: readonly EventItem<typeof deadLetterRecorded>[],
): Promise<void> {
  const doorbells = events.flatMap(({ payload }) =>
    payload.command?.kind === "run" && payload.tenant_id !== null
      ? [
          {
            ...payload,
            command: payload.command,
            key: { tenantId: payload.tenant_id, id: payload.command.command_id },
          },
        ]
      : [],
  );
  if (doorbells.length === 0) return;
  const rows = await lockCommands(tx, doorbells.map((doorbell) => doorbell.key)); // prettier-ignore
  const written = new Map<string, Written>();
  for (const doorbell of doorbells) {
    const key = keyOf(doorbell.key);
    const row = rows.get(key);
    // Two doorbells of one attempt in one batch count once.
    if (row === undefined || written.has(key)) continue;
    const stale = {
      state: row.state,
      attempt: row.attempt,
      attemptOfDoorbell: doorbell.command.attempt,
      requeues: row.requeues,
      requeuesMax: doorbell.dispatch_max_requeues,
      claimRecorded: row.claim_nonce !== null,
    };
    const verdict = requeuePolicy(stale, { hand: "broker", brokerReason: doorbell.reason });
    metrics.requeueVerdicts.inc({ hand: "broker", verdict: verdict.kind });
    if (verdict.kind === "ignore") continue;
    const life = transitionOf(
      row,
      verdict.kind === "requeue" ? { event: "requeue", reason: verdict.reason } : { event: verdict.event },
    );
    if (life === undefined) continue;
    const details = { dead_letter_id: doorbell.dead_letter_id, broker_reason: doorbell.reason };
    written.set(key, { row, life, actor: "broker", rule: "broker_gave_up", details });
  }
  await writeTransitions(tx, [...written.values()]);
  for (const { row, life } of written.values()) {
    metrics.transitions.inc({ from: row.state, to: life.state, reason: life.reason });
  }
}
