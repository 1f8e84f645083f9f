import { services } from "@muster/contracts/define";
import { tenantId, uuid } from "@muster/contracts/ids";
import { agentsUnrouted } from "@muster/contracts/topology";
import type { Topology } from "@muster/contracts/topology";

export const queueKinds = ["service", "vm", "agents", "command"] as const;
export type QueueKind = (typeof queueKinds)[number];

/** Where what agents publish ends when no queue takes it. */
export const unroutedQueue = agentsUnrouted;

/** Every queue that the dead end in: those that the topology parks them in. */
export const deadLetterQueues = (topology: Topology): string[] =>
  topology.queues.filter((queue) => queue.role === "parking").map((queue) => queue.name);

/** Whether messages wait here for their next attempt. */
export const isRetryQueue = (queue: string): boolean =>
  services.some((service) => queue.startsWith(`${service}.retry.`));

export function queueKindOf(queue: string): QueueKind {
  if (queue.startsWith("vm.")) return "vm";
  return queue === unroutedQueue ? "agents" : "service";
}

/** A bounded label: the service that consumes the queue, `vm`, `agents` or `other`. */
export function serviceLabelOf(queue: string): string {
  const kind = queueKindOf(queue);
  if (kind !== "service") return kind;
  return services.find((service) => queue.startsWith(`${service}.`)) ?? "other";
}

/** Tenant and VM of a queue `vm.<tenant>.<vm_uuid>.commands`. */
export function vmOfQueue(queue: string): { tenantId: string; vmUuid: string } | undefined {
  const parts = queue.split(".");
  if (parts.length !== 4 || parts[0] !== "vm" || parts[3] !== "commands") return undefined;
  const tenant = tenantId.safeParse(parts[1]);
  const vm = uuid.safeParse(parts[2]);
  return tenant.success && vm.success ? { tenantId: tenant.data, vmUuid: vm.data } : undefined;
}

/** Tenant of a key `agents.<tenant>.<agent_id>.<report>`: the broker has authorised it. */
export function tenantOfReportKey(routingKey: string): string | undefined {
  const parts = routingKey.split(".");
  if (parts.length !== 4 || parts[0] !== "agents") return undefined;
  const tenant = tenantId.safeParse(parts[1]);
  return tenant.success ? tenant.data : undefined;
}
