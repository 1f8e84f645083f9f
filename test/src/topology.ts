import { applyTopology } from "@muster/broker/topology-apply";
import { meshWith } from "@muster/contracts/mesh";
import { topologyOf } from "@muster/contracts/topology";

/** Declares the whole mesh in a vhost, with the defaults of an installation. */
export async function applyMesh(amqpUrl: string, managementUrl: string): Promise<void> {
  const topology = topologyOf(meshWith({ type: "quorum", deliveryLimit: 2, lengthMax: 10_000 }));
  await applyTopology(topology, { amqpUrl, managementUrl });
}
