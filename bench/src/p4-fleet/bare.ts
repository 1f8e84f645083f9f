import { connect, type ConfirmChannel } from "amqplib";
import { median } from "../harness/figure.ts";
import { inParallel, oneAfterAnother } from "./loops.ts";

/** What a broker's own client makes of the same queues: confirmed, mandatory, persistent publishes. */
export interface Bare {
  /** One at a time; the median until the confirm, in ms. */
  oneByOne(count: number): Promise<number>;
  /** So many outstanding; messages a second. */
  windowed(count: number, window: number): Promise<number>;
  /** Takes everything out of the queues. */
  purge(): Promise<void>;
  close(): Promise<void>;
}

const body = Buffer.alloc(1_024, "#");

export async function openBare(amqpUrl: string, queues: readonly string[]): Promise<Bare> {
  const connection = await connect(amqpUrl);
  const channel = await connection.createConfirmChannel();
  let next = 0;
  const publish = (): Promise<void> => confirmed(channel, queues[next++ % queues.length]!);
  return {
    oneByOne: async (count) => median(await oneAfterAnother(count, publish)),
    windowed: async (count, window) => {
      const fromMs = performance.now();
      await inParallel(count, window, publish);
      return (count * 1_000) / (performance.now() - fromMs);
    },
    purge: async () => {
      for (const queue of queues) await channel.purgeQueue(queue);
    },
    close: () => connection.close(),
  };
}

function confirmed(channel: ConfirmChannel, queue: string): Promise<void> {
  return new Promise((resolve, reject) => {
    channel.publish("", queue, body, { persistent: true, mandatory: true }, (error: unknown) =>
      error === null ? resolve() : reject(new Error("not confirmed", { cause: error })),
    );
  });
}
