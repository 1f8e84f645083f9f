import { connect, type Channel, type ChannelModel } from "amqplib";
import { replyCodeOf } from "./queues.ts";
import { BrokerRefusedError, placeOf, refusalOf } from "./refusals.ts";
import { TimeoutError, within } from "./waiting.ts";

/**
 * A quorum queue that was declared moments before its node was killed comes back without a leader and without its
 * messages: it is there and may be declared again, but nothing else is ever answered, and RabbitMQ does not mend it.
 * Deleting it works (after 5 s, by force); then it can be declared anew.
 */
export interface ProbeOptions {
  /** A live queue answers in milliseconds; one that elects its leader, in about a second. */
  readonly probeTimeoutMs?: number;
}

const probeTimeoutMsDefault = 5_000;
const operationTimeoutMs = 20_000;
const probesAtOnce = 16;

/** Which of these quorum queues are there and answer nothing, in two looks with `probeTimeoutMs` each. */
export async function stuckQueues(
  amqpUrl: string,
  names: readonly string[],
  o: ProbeOptions = {},
): Promise<string[]> {
  const timeoutMs = o.probeTimeoutMs ?? probeTimeoutMsDefault;
  const suspects = await silentOf(amqpUrl, names, timeoutMs);
  return suspects.length === 0 ? [] : silentOf(amqpUrl, suspects, timeoutMs);
}

/** Each look has a connection to itself: RabbitMQ may close the one on which a stuck queue is asked (541). */
async function silentOf(amqpUrl: string, names: readonly string[], timeoutMs: number): Promise<string[]> {
  const model = await openThrowAway(amqpUrl, "probe");
  const silent: string[] = [];
  try {
    for (let from = 0; from < names.length; from += probesAtOnce) {
      const some = names.slice(from, from + probesAtOnce);
      const answers = await Promise.all(some.map((name) => answersGet(model, name, timeoutMs)));
      silent.push(...some.filter((_, at) => answers[at] === false));
    }
  } finally {
    closeSoon(model);
  }
  return silent;
}

/**
 * Asks for one message, which is given back when the channel closes. A queue with a single active consumer refuses
 * that at once (405), which is an answer too. Throws when the broker itself does not answer.
 */
async function answersGet(model: ChannelModel, name: string, timeoutMs: number): Promise<boolean> {
  const channel = await within(model.createChannel(), operationTimeoutMs, "opening a channel");
  channel.on("error", () => {});
  try {
    await within(channel.get(name, { noAck: false }), timeoutMs, `asking ${name}`);
    return true;
  } catch (error) {
    if (error instanceof TimeoutError || replyCodeOf(error) === 541) return false;
    if (replyCodeOf(error) !== undefined) return true;
    throw error;
  } finally {
    void Promise.resolve()
      .then(() => channel.close())
      .catch(() => {});
  }
}

/** Deletes these queues, messages and all. */
export async function deleteStuck(amqpUrl: string, names: readonly string[]): Promise<void> {
  for (let from = 0; from < names.length; from += probesAtOnce) {
    const model = await openThrowAway(amqpUrl, "repair");
    try {
      await Promise.all(
        names.slice(from, from + probesAtOnce).map((name) => onChannel(model, (c) => c.deleteQueue(name))),
      );
    } finally {
      closeSoon(model);
    }
  }
}

async function onChannel(model: ChannelModel, work: (channel: Channel) => Promise<unknown>): Promise<void> {
  const channel = await within(model.createChannel(), operationTimeoutMs, "opening a channel");
  channel.on("error", () => {});
  await within(work(channel), operationTimeoutMs, "deleting a queue");
}

/** A connection for one piece of work. Throws BrokerRefusedError. */
export async function openThrowAway(amqpUrl: string, name: string): Promise<ChannelModel> {
  try {
    const connecting = connect(amqpUrl, {
      timeout: operationTimeoutMs,
      clientProperties: { connection_name: name },
    }).then((model) => {
      model.on("error", () => {});
      return model;
    });
    return await within(connecting, operationTimeoutMs, "connecting");
  } catch (cause) {
    throw new BrokerRefusedError(refusalOf(cause, placeOf(amqpUrl)), cause);
  }
}

/** A channel that hangs must not keep the work waiting. */
function closeSoon(model: ChannelModel): void {
  void within(
    Promise.resolve().then(() => model.close()),
    operationTimeoutMs,
    "closing the connection",
  ).catch(() => {});
}
