import type { Channel, ConsumeMessage } from "amqplib";
import type { DoorbellContract } from "@muster/contracts/define";
import type { Logger } from "@muster/telemetry/logger";
import type { SupervisedChannel } from "./channel.ts";
import type { SupervisedConnection } from "./connection.ts";
import { unhealthy, type Health } from "./health.ts";
import { queueLabel, type Instruments } from "./instruments.ts";
import { Condition, within } from "./waiting.ts";

/** Something that takes messages; `close` stops taking and lets what is being handled end. */
export interface Consumer {
  readonly queue: string;
  health(): Health;
  close(): Promise<void>;
}

/** One delivery. Settling twice, or after its channel is gone, does nothing. */
export interface RawDelivery {
  readonly queue: string;
  readonly exchange: string;
  readonly routingKey: string;
  readonly body: Buffer;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly contentType: string | undefined;
  readonly messageId: string | undefined;
  /** Of the user that published it, as the broker has checked; undefined where none was given. */
  readonly userId: string | undefined;
  readonly type: string | undefined;
  readonly replyTo: string | undefined;
  readonly correlationId: string | undefined;
  readonly redelivered: boolean;
  /** Earlier deliveries of this message from a quorum queue. */
  readonly deliveryCount: number;
  readonly receivedMs: number;
  readonly settled: boolean;
  ack(): void;
  /** This attempt failed: with `requeue` it counts against the delivery limit, without it is dead-lettered. */
  reject(requeue: boolean): void;
  /** Not attempted (drain): gives it back. */
  nackNotAttempted(): void;
}

export interface ConsumeOptions {
  /** Unsettled deliveries at most. */
  readonly prefetch: number;
  readonly noAck?: false;
  /** What the queue carries: a delivery by a sender that may not send it is counted and dead-lettered. */
  readonly doorbell?: DoorbellContract;
  /** How long `close` waits for deliveries in hand. */
  readonly drainTimeoutMs?: number;
}

interface ConsumerParts {
  readonly connection: SupervisedConnection;
  readonly logger: Logger;
  readonly instruments: Instruments;
}

const firstAttemptTimeoutMs = 10_000;

/** Consumes a queue for as long as wanted: through lost channels and connections, and a queue deleted and made anew. */
export class QueueConsumer implements Consumer {
  readonly queue: string;
  readonly #logger: Logger;
  readonly #instruments: Instruments;
  readonly #label: string;
  readonly #drainTimeoutMs: number;
  readonly #prefetch: number;
  readonly #onDelivery: (delivery: RawDelivery) => void;
  readonly #channel: SupervisedChannel;
  readonly #drained = new Condition(() => this.#outstanding.size === 0);
  /** Unsettled delivery tags of the present channel, lowest first. */
  #outstanding = new Set<number>();
  #acks: ConsumeMessage[] = [];
  #flush: NodeJS.Immediate | undefined;
  #live: Channel | undefined;
  #consumerTag: string | undefined;
  #stopping: Promise<void> | undefined;
  #closing: Promise<void> | undefined;

  private constructor(
    parts: ConsumerParts,
    queue: string,
    options: ConsumeOptions,
    onDelivery: (delivery: RawDelivery) => void,
  ) {
    this.queue = queue;
    this.#logger = parts.logger.child({ queue });
    this.#instruments = parts.instruments;
    this.#label = queueLabel(queue);
    this.#prefetch = options.prefetch;
    this.#drainTimeoutMs = options.drainTimeoutMs ?? 10_000;
    this.#onDelivery = onDelivery;
    this.#channel = parts.connection.keepChannel({
      name: `consume ${queue}`,
      open: (model) => model.createChannel(),
      setup: (channel, epoch) => this.#subscribe(channel, epoch),
      lost: () => this.#forgetOutstanding(),
    });
  }

  /** Resolves when consuming or, when the queue is not there, waiting for it: `health` says which. */
  static async open(
    parts: ConsumerParts,
    queue: string,
    options: ConsumeOptions,
    onDelivery: (delivery: RawDelivery) => void,
  ): Promise<QueueConsumer> {
    const consumer = new QueueConsumer(parts, queue, options, onDelivery);
    await consumer.#channel.firstOutcome(firstAttemptTimeoutMs);
    return consumer;
  }

  health(): Health {
    if (this.#stopping !== undefined) return unhealthy("closed");
    const health = this.#channel.health();
    if (health.ok || !/NOT_FOUND|404/.test(health.reason ?? "")) return health;
    return unhealthy(`queue ${this.queue} does not exist; apply the topology`);
  }

  get outstanding(): number {
    return this.#outstanding.size;
  }

  async #subscribe(channel: Channel, epoch: number): Promise<void> {
    if (this.#stopping !== undefined) return;
    this.#live = channel;
    await channel.prefetch(this.#prefetch, false);
    const { consumerTag } = await channel.consume(
      this.queue,
      (message) => {
        if (message === null) {
          this.#channel.reopen(`the broker cancelled the consumer: NOT_FOUND`);
          return;
        }
        this.#take(channel, epoch, message);
      },
      { noAck: false },
    );
    this.#consumerTag = consumerTag;
  }

  #forgetOutstanding(): void {
    this.#instruments.inFlight.dec({ queue: this.#label }, this.#outstanding.size);
    this.#outstanding = new Set();
    this.#acks = [];
    this.#live = undefined;
    this.#consumerTag = undefined;
    this.#drained.poke();
  }

  #take(channel: Channel, epoch: number, message: ConsumeMessage): void {
    const tag = message.fields.deliveryTag;
    this.#outstanding.add(tag);
    this.#instruments.inFlight.inc({ queue: this.#label });
    const once = (settle: () => void): boolean => {
      if (epoch !== this.#channel.epoch || !this.#outstanding.delete(tag)) return false;
      this.#instruments.inFlight.dec({ queue: this.#label });
      // a channel that is closing throws; its deliveries come again
      try {
        settle();
      } catch (error) {
        this.#logger.debug({ err: error }, "could not settle a delivery");
      }
      this.#drained.poke();
      return true;
    };
    const delivery = new Delivery(this.queue, message, once, {
      ack: () => this.#ackSoon(message),
      reject: (requeue) => channel.reject(message, requeue),
      nack: () => channel.nack(message, false, true),
    });
    try {
      this.#onDelivery(delivery);
    } catch (error) {
      this.#logger.error({ err: error }, "a consumer's callback threw; the delivery is dead-lettered");
      delivery.reject(false);
    }
  }

  /** Acks of one turn of the event loop leave together, as one frame where none below is unsettled. */
  #ackSoon(message: ConsumeMessage): void {
    this.#acks.push(message);
    this.#flush ??= setImmediate(() => {
      this.#flush = undefined;
      this.#flushAcks();
    });
  }

  #flushAcks(): void {
    const acks = this.#acks;
    const channel = this.#live;
    if (channel === undefined) return;
    this.#acks = [];
    const [lowest = Infinity] = this.#outstanding;
    let upTo: ConsumeMessage | undefined;
    try {
      for (const message of acks) {
        const tag = message.fields.deliveryTag;
        if (tag > lowest) channel.ack(message);
        else if (upTo === undefined || tag > upTo.fields.deliveryTag) upTo = message;
      }
      if (upTo !== undefined) channel.ack(upTo, true);
    } catch (error) {
      this.#logger.debug({ err: error }, "could not acknowledge; the deliveries come again");
    }
  }

  /** Takes no new deliveries; those in hand may still be settled. Idempotent. */
  stop(): Promise<void> {
    this.#stopping ??= this.#cancel();
    return this.#stopping;
  }

  async #cancel(): Promise<void> {
    const channel = this.#channel.channel;
    const tag = this.#consumerTag;
    if (channel === undefined || tag === undefined) return;
    const cancelling = Promise.resolve().then(() => channel.cancel(tag));
    await within(cancelling, 2_000, "cancelling a consumer").catch(() => {});
  }

  /** Waits within the bound until all in hand is settled; what is not goes back to the queue. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.stop();
    if (!(await this.#drained.reached(this.#drainTimeoutMs))) {
      this.#logger.warn({ unsettled: this.#outstanding.size }, "deliveries given back unhandled");
    }
    this.#flushAcks();
    await this.#channel.close();
  }
}

interface Settling {
  ack(): void;
  reject(requeue: boolean): void;
  nack(): void;
}

class Delivery implements RawDelivery {
  readonly queue: string;
  readonly receivedMs = performance.now();
  readonly #message: ConsumeMessage;
  readonly #once: (settle: () => void) => boolean;
  readonly #settling: Settling;
  #settled = false;

  constructor(
    queue: string,
    message: ConsumeMessage,
    once: (settle: () => void) => boolean,
    settling: Settling,
  ) {
    this.queue = queue;
    this.#message = message;
    this.#once = once;
    this.#settling = settling;
  }

  get exchange(): string {
    return this.#message.fields.exchange;
  }
  get routingKey(): string {
    return this.#message.fields.routingKey;
  }
  get body(): Buffer {
    return this.#message.content;
  }
  get headers(): Readonly<Record<string, unknown>> {
    return this.#message.properties.headers ?? {};
  }
  get contentType(): string | undefined {
    return text(this.#message.properties.contentType);
  }
  get messageId(): string | undefined {
    return text(this.#message.properties.messageId);
  }
  get userId(): string | undefined {
    return text(this.#message.properties.userId);
  }
  get type(): string | undefined {
    return text(this.#message.properties.type);
  }
  get replyTo(): string | undefined {
    return text(this.#message.properties.replyTo);
  }
  get correlationId(): string | undefined {
    return text(this.#message.properties.correlationId);
  }
  get redelivered(): boolean {
    return this.#message.fields.redelivered;
  }
  get deliveryCount(): number {
    const count = this.headers["x-delivery-count"];
    return typeof count === "number" ? count : 0;
  }
  get settled(): boolean {
    return this.#settled;
  }

  ack(): void {
    this.#settle(() => this.#settling.ack());
  }

  reject(requeue: boolean): void {
    this.#settle(() => this.#settling.reject(requeue));
  }

  nackNotAttempted(): void {
    this.#settle(() => this.#settling.nack());
  }

  #settle(how: () => void): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#once(how);
  }
}

export function text(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}
