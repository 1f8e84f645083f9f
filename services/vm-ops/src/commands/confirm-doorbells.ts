import type { OutboxRow } from "@muster/database/outbox";
import type { Tx } from "@muster/database/database";
import { decide } from "./machine.ts";
import type { Life } from "./machine.ts";
import { rungBy } from "./messages.ts";

const fresh: Life = {
  state: "queued",
  attempt: 1,
  requeues: 0,
  desired: "run",
  reason: "accepted",
  effect: "none",
  effectCarried: "none",
  late: false,
  resultStored: false,
};

// Where a claim was quicker than this, state is no longer queued, and nothing happens: the claim wrote both steps.
const text = `WITH given AS (
    SELECT * FROM unnest($1::text[], $2::uuid[], $3::integer[]) AS g(tenant_id, id, attempt)
  ), changed AS (
    UPDATE commands c SET state = $4, reason = $5, dispatched_at = now()
    FROM given g WHERE c.tenant_id = g.tenant_id AND c.id = g.id AND c.attempt = g.attempt AND c.state = 'queued'
    RETURNING c.tenant_id, c.id, c.attempt
  )
  INSERT INTO command_events (tenant_id, command_id, from_state, to_state, attempt, reason, rule, actor)
  SELECT tenant_id, id, 'queued', $4, attempt, $5, 'doorbell_confirmed', 'broker' FROM changed
  RETURNING command_id`;

/**
 * The broker has these doorbells: queued becomes dispatched, in the transaction that forgets the outbox rows. Answers
 * which commands were changed.
 */
export async function confirmDoorbells(tx: Tx, rows: readonly OutboxRow[]): Promise<string[]> {
  const rung = rows.flatMap(({ message }) => {
    const by = rungBy(message);
    return by === undefined || message.tenantId === null ? [] : [{ ...by, tenantId: message.tenantId }];
  });
  if (rung.length === 0) return [];
  rung.sort((a, b) => (a.tenantId + a.commandId < b.tenantId + b.commandId ? -1 : 1));
  const decision = decide(fresh, { event: "doorbell_confirmed" });
  if (decision.kind === "refused") throw new Error("the machine refuses to confirm a queued command");
  const { state, reason } = decision.life;
  const values = [
    rung.map((one) => one.tenantId),
    rung.map((one) => one.commandId),
    rung.map((one) => one.attempt),
  ];
  const changed = await tx.query<{ command_id: string }>(text, [...values, state, reason], {
    name: "vmops_confirm_doorbells",
  });
  return changed.map((row) => row.command_id);
}
