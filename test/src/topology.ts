import { applyTopology } from "@muster/broker/topology-apply";
import { meshWith } from "@muster/contracts/mesh";
import { topologyOf } from "@muster/contracts/topology";

/** The whole mesh, with the defaults of an installation. */
export const declaredMesh = meshWith({ type: "quorum", deliveryLimit: 2, lengthMax: 10_000 });

/** Declares it in a vhost. */
export async function applyMesh(amqpUrl: string, managementUrl: string): Promise<void> {
  await applyTopology(topologyOf(declaredMesh), { amqpUrl, managementUrl });
}
