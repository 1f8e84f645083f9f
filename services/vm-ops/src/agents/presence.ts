import type { agentLost, agentRecovered } from "@muster/contracts/reliability";
import type { EventItem } from "@muster/broker/broker";
import type { Tx } from "@muster/database/database";

type Heard = EventItem<typeof agentLost> | EventItem<typeof agentRecovered>;

/** Notes who is online. News of an older generation says nothing about the session of now. */
export async function notePresence(tx: Tx, events: readonly Heard[], online: boolean): Promise<void> {
  const heard = events.flatMap(({ payload, context }) =>
    context.tenantId === undefined ? [] : [{ tenantId: context.tenantId, ...payload }],
  );
  heard.sort((a, b) => (a.tenantId + a.agent_id < b.tenantId + b.agent_id ? -1 : 1));
  await tx.execute(
    `UPDATE agent_sessions s SET online = $4, online_since = CASE WHEN $4 THEN now() ELSE s.online_since END
     FROM unnest($1::text[], $2::uuid[], $3::integer[]) AS g(tenant_id, agent_id, generation)
     WHERE s.tenant_id = g.tenant_id AND s.agent_id = g.agent_id AND s.generation = g.generation
       AND s.online IS DISTINCT FROM $4`,
    [
      ...[heard.map((one) => one.tenantId), heard.map((one) => one.agent_id)],
      ...[heard.map((one) => one.generation), online],
    ],
  );
}
