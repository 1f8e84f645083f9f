import type { Broker } from "@muster/broker/broker";
import { authRequests } from "@muster/contracts/auth";
import type { WorkContext } from "@muster/contracts/envelope";
import { MusterError } from "@muster/contracts/errors";

export interface AgentKeysOptions {
  readonly broker: Pick<Broker, "request">;
  readonly maxAgeMs: number;
  readonly keptMax: number;
  readonly timeoutMs: number;
  /** Milliseconds, monotonic. */
  readonly now: () => number;
}

export interface Agent {
  readonly tenantId: string;
  readonly agentId: string;
  /** Of the pairing that it logged in by. */
  readonly epoch: number;
}

/** The keys that agents were paired by, as auth has them, kept for moments: one revoked is without secrets as soon. */
export class AgentKeys {
  readonly #o: AgentKeysOptions;
  readonly #kept = new Map<string, { readonly publicKey: string; readonly until: number }>();

  constructor(o: AgentKeysOptions) {
    this.#o = o;
  }

  /** In base64url. Throws AGENT_KEY_UNKNOWN for whoever is not paired, or was paired anew. */
  async keyOf(agent: Agent, context: WorkContext): Promise<string> {
    const { now, maxAgeMs, keptMax } = this.#o;
    const name = `${agent.tenantId}/${agent.agentId}/${agent.epoch}`;
    const kept = this.#kept.get(name);
    if (kept !== undefined && kept.until > now()) return kept.publicKey;
    this.#kept.delete(name);
    const publicKey = await this.#ask(agent, context);
    const [oldest] = this.#kept.keys();
    if (this.#kept.size >= keptMax && oldest !== undefined) this.#kept.delete(oldest);
    this.#kept.set(name, { publicKey, until: now() + maxAgeMs });
    return publicKey;
  }

  async #ask({ tenantId, agentId, epoch }: Agent, context: WorkContext): Promise<string> {
    const { broker, timeoutMs } = this.#o;
    const payload = { tenant_id: tenantId, agent_id: agentId };
    try {
      const found = await broker.request(authRequests.getAgentKey, payload, context, { timeoutMs });
      if (found.state === "paired" && found.epoch === epoch) return found.public_key.x;
    } catch (error) {
      if (!(error instanceof MusterError) || error.code !== "AGENT_NOT_FOUND") throw error;
    }
    throw new MusterError("AGENT_KEY_UNKNOWN");
  }
}
