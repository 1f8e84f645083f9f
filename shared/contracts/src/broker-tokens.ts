import { agentsExchange, vmQueue } from "./topology.ts";

/** RabbitMQ's `resource_server_id`: what its tokens have in `aud`, and before each scope. */
export const brokerAudience = "muster-broker";
export const brokerTokenType = "muster-broker+jwt";

interface Named {
  readonly vhost: string;
  readonly tenantId: string;
  readonly agentId: string;
}

/**
 * What an agent may do at the broker, as scopes of its OAuth 2 backend: report under its own name. `*` is anything there,
 * dots too, so everything but the report's name is literal.
 */
export function reportScope({ vhost, tenantId, agentId }: Named): string {
  return `${brokerAudience}.write:${part(vhost)}/${part(agentsExchange)}/agents.${part(tenantId)}.${part(agentId)}.*`;
}

/** And read the queues of its VMs. */
export function queueScopes({ vhost, tenantId }: Named, vmUuids: readonly string[]): string[] {
  return vmUuids.map((vm) => `${brokerAudience}.read:${part(vhost)}/${part(vmQueue(tenantId, vm))}`);
}

const part = (text: string): string => encodeURIComponent(text).replace(/\*/g, "%2A");
