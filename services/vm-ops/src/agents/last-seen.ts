import type { Database } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import { agentKeyOf } from "./sessions.ts";
import type { AgentKey } from "./sessions.ts";

/** Remembers who was heard of, and writes it down together every few seconds: no row per message. */
export interface LastSeen {
  /** A report of this generation was accepted, so its agent knows the generation. */
  touch(agent: AgentKey, generation: number): void;
  close(): Promise<void>;
}

const agentsPerWriteMax = 2_000;

const text = `UPDATE agent_sessions s
  SET last_seen_at = now(), used_generation = greatest(s.used_generation, g.generation)
  FROM unnest($1::text[], $2::uuid[], $3::integer[]) AS g(tenant_id, agent_id, generation)
  WHERE s.tenant_id = g.tenant_id AND s.agent_id = g.agent_id AND s.generation = g.generation`;

export function openLastSeen(o: {
  database: Pick<Database, "transaction">;
  logger: Logger;
  everyMs?: number;
}): LastSeen {
  const seen = new Map<string, AgentKey & { generation: number }>();
  let flushing = Promise.resolve();

  async function flush(): Promise<void> {
    const batch = [...seen].slice(0, agentsPerWriteMax);
    if (batch.length === 0) return;
    for (const [key] of batch) seen.delete(key);
    const agents = batch.map(([, agent]) => agent).sort((a, b) => (agentKeyOf(a) < agentKeyOf(b) ? -1 : 1));
    const values = [
      agents.map((agent) => agent.tenantId),
      agents.map((agent) => agent.agentId),
      agents.map((agent) => agent.generation),
    ];
    try {
      await o.database.transaction("system", (tx) => tx.execute(text, values, { name: "vmops_last_seen" }));
    } catch (error) {
      o.logger.debug({ err: error, agents: agents.length }, "could not write down who was heard of");
    }
  }

  const timer = setInterval(() => {
    flushing = flushing.then(flush);
  }, o.everyMs ?? 5_000);
  timer.unref();
  return {
    touch: (agent, generation) => void seen.set(agentKeyOf(agent), { ...agent, generation }),
    async close() {
      clearInterval(timer);
      await flushing;
      await flush();
    },
  };
}
