import { MusterError } from "@muster/contracts/errors";
import type { SupervisedConnection } from "./connection.ts";

export type VmQueueType = "quorum" | "classic";

const vmQueueName = /^vm\.[a-z0-9][a-z0-9-]{0,62}\.[0-9a-f-]{36}\.commands$/;

/** Limits, dead letters and length come from the policy for `vm.`; arguments can never be changed again. */
export async function ensureVmQueue(
  connection: SupervisedConnection,
  name: string,
  type: VmQueueType,
): Promise<void> {
  if (!vmQueueName.test(name)) throw new Error(`${name} is not the name of a VM's queue`);
  await operate(connection, `declaring ${name}`, (channel) =>
    channel.assertQueue(name, {
      durable: true,
      arguments: { "x-queue-type": type, "x-single-active-consumer": true },
    }),
  );
}

export async function deleteQueue(
  connection: SupervisedConnection,
  name: string,
  ifEmpty: boolean,
): Promise<void> {
  await operate(connection, `deleting ${name}`, (channel) =>
    channel.deleteQueue(name, ifEmpty ? { ifEmpty } : {}),
  );
}

export async function queueExists(connection: SupervisedConnection, name: string): Promise<boolean> {
  try {
    await connection.withChannel((channel) => channel.checkQueue(name));
    return true;
  } catch (error) {
    if (replyCodeOf(error) === 404) return false;
    throw unavailable(`looking for ${name}`, error);
  }
}

type Operation = Parameters<SupervisedConnection["withChannel"]>[0];

async function operate(connection: SupervisedConnection, doing: string, work: Operation): Promise<void> {
  try {
    await connection.withChannel(work);
  } catch (error) {
    if (replyCodeOf(error) !== 406) throw unavailable(doing, error);
    throw new Error(
      `${doing}: the queue is there with other arguments or is not empty; delete it by hand first`,
      {
        cause: error,
      },
    );
  }
}

function unavailable(doing: string, cause: unknown): MusterError {
  return new MusterError("DEPENDENCY_UNAVAILABLE", undefined, {
    cause: new Error(doing, { cause }),
    retryAfterMs: 1_000,
  });
}

/** The AMQP reply code of a channel that the broker closed. */
export function replyCodeOf(error: unknown): number | undefined {
  if (typeof error !== "object" || error === null) return undefined;
  const code: unknown = Reflect.get(error, "code");
  return typeof code === "number" ? code : undefined;
}
