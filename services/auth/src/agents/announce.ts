import { prepareEvent } from "@muster/broker/prepare";
import type { WorkContext } from "@muster/contracts/envelope";
import { agentChanged } from "@muster/contracts/pairing";
import type { Tx } from "@muster/database/database";
import type { AgentRow } from "./store.ts";

/** Tells what the agent is from this transaction's commit on. */
export function announceAgent(tx: Tx, row: AgentRow, context: WorkContext): void {
  const { correlationId, causationId, traceparent } = context;
  const payload = {
    agent_id: row.id,
    revision: row.revision,
    state: row.revoked_at === null ? ("paired" as const) : ("revoked" as const),
    epoch: row.epoch,
    vm_uuids: row.vm_uuids,
    at: new Date().toISOString(),
  };
  const from = { context: { correlationId, causationId, traceparent }, tenantId: row.tenant_id };
  tx.publish(prepareEvent(agentChanged, payload, { ...from, subject: row.id }));
}
