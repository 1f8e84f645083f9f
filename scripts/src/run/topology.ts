import { applyTopology } from "@muster/broker/topology-apply";
import { meshWith } from "@muster/contracts/mesh";
import { topologyOf } from "@muster/contracts/topology";
import type { Mesh, Topology } from "@muster/contracts/topology";
import { pollUntil } from "../system/wait.ts";

const attemptsMs = 30_000;

const lengthDefault = 10_000;
const requeuesDefault = 2;

const wholeNumber = (text: string | undefined, fallback: number): number =>
  text !== undefined && /^[0-9]{1,9}$/.test(text) ? Number(text) : fallback;

/** What this environment declares: how VM queues are kept, and the delivery limit that mirrors the limit of requeues. */
export function declaredMesh(env: NodeJS.ProcessEnv): Mesh {
  const type = env["MUSTER_VM_QUEUE_TYPE"] === "classic" ? "classic" : "quorum";
  const deliveryLimit = wholeNumber(env["MUSTER_VMOPS_DISPATCH_MAX_REQUEUES"], requeuesDefault);
  const lengthMax = wholeNumber(env["MUSTER_VM_QUEUE_LENGTH_MAX"], lengthDefault);
  return meshWith({ type, deliveryLimit, lengthMax });
}

export const declaredTopology = (env: NodeJS.ProcessEnv): Topology => topologyOf(declaredMesh(env));

/** Makes the declared exchanges, queues, bindings and policies exist. A broker that has just started may need a moment. */
export async function declareTopology(
  target: { readonly amqpUrl: string; readonly managementUrl: string },
  env: NodeJS.ProcessEnv,
  signal: AbortSignal,
): Promise<void> {
  let fault: unknown;
  const applied = await pollUntil(
    async () => {
      try {
        await applyTopology(declaredTopology(env), target);
        return true;
      } catch (error) {
        fault = error;
        if (error instanceof Error && error.message.startsWith("the topology cannot be applied")) throw error;
        return false;
      }
    },
    { timeoutMs: attemptsMs, intervalMs: 500, signal },
  );
  if (applied !== true) throw fault;
}
