import { prepareEvent } from "@muster/broker/prepare";
import type { PreparedMessage } from "@muster/contracts/message";
import { agentLost, agentRecovered } from "@muster/contracts/reliability";
import { ownContext } from "../sweeps/sweep.ts";

interface About {
  readonly tenantId: string;
  readonly agentId: string;
  readonly generation: number;
  readonly at: Date;
}

/** Events of one agent are published in their order. */
const addressed = (about: About) => ({
  context: ownContext(),
  tenantId: about.tenantId,
  subject: about.agentId,
  orderingKey: `agent:${about.agentId}`,
});

export function lostEvent(about: About & { kind: "lost" | "stopped"; lastSeenAt: Date }): PreparedMessage {
  const { agentId, generation, kind } = about;
  const times = { last_seen_at: about.lastSeenAt.toISOString(), at: about.at.toISOString() };
  return prepareEvent(agentLost, { agent_id: agentId, generation, kind, ...times }, addressed(about));
}

export function recoveredEvent(about: About): PreparedMessage {
  const { agentId, generation } = about;
  const payload = { agent_id: agentId, generation, at: about.at.toISOString() };
  return prepareEvent(agentRecovered, payload, addressed(about));
}
