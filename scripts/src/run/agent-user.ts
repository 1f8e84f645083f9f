import { agentsExchange } from "@muster/contracts/topology";

export interface AgentIdentity {
  readonly tenantId: string;
  readonly agentId: string;
  readonly vmUuids: readonly string[];
}

export interface BrokerUser {
  readonly name: string;
  readonly permissions: { readonly configure: string; readonly write: string; readonly read: string };
  readonly topicPermissions: { readonly exchange: string; readonly write: string; readonly read: string };
}

function literally(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

/**
 * The least that an agent needs: to read its VMs' queues and to report under its own name.
 * It declares nothing, reads no other queue, and cannot write to the default exchange, which reaches every queue.
 */
export function agentUser({ tenantId, agentId, vmUuids }: AgentIdentity): BrokerUser {
  const tenant = literally(tenantId);
  return {
    name: `agent-${agentId}`,
    permissions: {
      configure: "^$",
      write: `^${literally(agentsExchange)}$`,
      read: `^vm\\.${tenant}\\.(${vmUuids.map(literally).join("|")})\\.commands$`,
    },
    topicPermissions: {
      exchange: agentsExchange,
      write: `^agents\\.${tenant}\\.${literally(agentId)}\\.`,
      read: "^$",
    },
  };
}

export interface Management {
  readonly url: string;
  readonly vhost: string;
}

async function put(management: Management, path: string, body: unknown): Promise<void> {
  const { username, password, origin } = new URL(management.url);
  const login = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  const answer = await fetch(`${origin}/api/${path}`, {
    method: "PUT",
    headers: {
      authorization: `Basic ${Buffer.from(login).toString("base64")}`,
      "content-type": "application/json",
    },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(10_000),
  });
  if (!answer.ok) {
    throw new Error(
      `RabbitMQ's management API answered ${answer.status} to PUT ${path}: ${await answer.text()}`,
    );
  }
  await answer.arrayBuffer();
}

/** Makes the user or brings it up to date. */
export async function ensureUser(management: Management, user: BrokerUser, password: string): Promise<void> {
  const name = encodeURIComponent(user.name);
  const vhost = encodeURIComponent(management.vhost);
  await put(management, `users/${name}`, { password, tags: "" });
  await put(management, `permissions/${vhost}/${name}`, user.permissions);
  await put(management, `topic-permissions/${vhost}/${name}`, user.topicPermissions);
}
