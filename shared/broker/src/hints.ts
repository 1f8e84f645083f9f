import type { Channel, ConsumeMessage } from "amqplib";
import type { Logger } from "@muster/telemetry/logger";
import type { SupervisedChannel } from "./channel.ts";
import type { SupervisedConnection } from "./connection.ts";
import type { Health } from "./health.ts";
import type { Instruments } from "./instruments.ts";
import { text } from "./consume.ts";
import type { ReceivedMessage } from "./read-envelope.ts";

/** Publishes what may be lost: no confirm, not persistent; hints are dropped rather than kept waiting. */
export class TransientPublisher {
  readonly #connection: SupervisedConnection;
  readonly #instruments: Instruments;
  readonly #channel: SupervisedChannel;
  #congested = false;
  readonly #mayWait: boolean;

  /** `replies`: as many as requests in hand, so they may wait; `hints`: any number, so they may not. */
  constructor(
    connection: SupervisedConnection,
    name: "replies" | "hints",
    logger: Logger,
    instruments: Instruments,
  ) {
    this.#connection = connection;
    this.#mayWait = name === "replies";
    this.#instruments = instruments;
    this.#channel = connection.keepChannel({
      name,
      open: (model) => model.createChannel(),
      setup: async (channel) => {
        this.#congested = false;
        channel.on("drain", () => {
          this.#congested = false;
        });
      },
      lost: (reason) => logger.debug({ reason }, `${name} channel lost`),
    });
  }

  health(): Health {
    return this.#channel.health();
  }

  /** Never throws. */
  send(
    exchange: string,
    routingKey: string,
    body: string,
    options: { correlationId?: string; contentType: string },
  ): void {
    const channel = this.#channel.channel;
    const full = this.#congested || this.#connection.state !== "connected";
    if (channel === undefined || (full && !this.#mayWait)) {
      this.#instruments.hintsDropped.inc();
      return;
    }
    try {
      const properties = { ...options, userId: this.#connection.user };
      this.#congested = !channel.publish(exchange, routingKey, Buffer.from(body), properties);
    } catch {
      this.#instruments.hintsDropped.inc();
    }
  }

  close(): Promise<void> {
    return this.#channel.close();
  }
}

export interface Watch {
  bind(key: string): Promise<void>;
  unbind(key: string): Promise<void>;
  close(): Promise<void>;
}

export interface WatchedMessage extends ReceivedMessage {
  readonly routingKey: string;
  readonly userId: string | undefined;
  readonly messageId: string | undefined;
}

export interface WatchOptions {
  readonly exchange: string;
  readonly onMessage: (message: WatchedMessage) => void;
  /** There is a new queue after an earlier one was lost: what was published in between was missed. */
  readonly onReopened?: () => void;
}

const messagesKeptMax = 10_000;

/** A private queue that lives as long as its channel; bound keys are counted and bound again on a new channel. */
export class HintWatch implements Watch {
  readonly #o: WatchOptions;
  readonly #logger: Logger;
  readonly #channel: SupervisedChannel;
  readonly #keys = new Map<string, number>();
  #queue: string | undefined;
  #opened = false;

  constructor(connection: SupervisedConnection, logger: Logger, o: WatchOptions) {
    this.#o = o;
    this.#logger = logger;
    this.#channel = connection.keepChannel({
      name: `watch ${o.exchange}`,
      open: (model) => model.createChannel(),
      setup: (channel) => this.#setUp(channel),
      lost: () => {
        this.#queue = undefined;
      },
    });
  }

  get exchange(): string {
    return this.#o.exchange;
  }

  async #setUp(channel: Channel): Promise<void> {
    const { queue } = await channel.assertQueue("", {
      exclusive: true,
      autoDelete: true,
      durable: false,
      maxLength: messagesKeptMax,
    });
    this.#queue = queue;
    await Promise.all([...this.#keys.keys()].map((key) => channel.bindQueue(queue, this.#o.exchange, key)));
    await channel.consume(
      queue,
      (message) => {
        if (message === null) {
          this.#channel.reopen("the broker cancelled the watch");
          return;
        }
        this.#deliver(message);
      },
      // What is lost is made good: a hint by the next read, an event by what onReopened does.
      { noAck: true, exclusive: true },
    );
    if (this.#opened) this.#o.onReopened?.();
    this.#opened = true;
  }

  #deliver({ content, fields, properties }: ConsumeMessage): void {
    try {
      this.#o.onMessage({
        body: content,
        routingKey: fields.routingKey,
        userId: text(properties.userId),
        messageId: text(properties.messageId),
        contentType: text(properties.contentType),
        headers: properties.headers ?? {},
      });
    } catch (error) {
      this.#logger.debug({ err: error }, "a hint could not be handled");
    }
  }

  whenOpen(timeoutMs: number): Promise<unknown> {
    return this.#channel.whenOpen(timeoutMs);
  }

  health(): Health {
    return this.#channel.health();
  }

  /** Resolves when bound, or kept for the next connection when there is none. */
  async bind(key: string): Promise<void> {
    const uses = (this.#keys.get(key) ?? 0) + 1;
    this.#keys.set(key, uses);
    const queue = this.#queue;
    if (queue !== undefined && uses === 1)
      await this.#channel.channel?.bindQueue(queue, this.#o.exchange, key);
  }

  async unbind(key: string): Promise<void> {
    const uses = (this.#keys.get(key) ?? 0) - 1;
    if (uses > 0) return void this.#keys.set(key, uses);
    if (!this.#keys.delete(key)) return;
    const queue = this.#queue;
    if (queue !== undefined)
      await this.#channel.channel?.unbindQueue(queue, this.#o.exchange, key).catch(() => {});
  }

  close(): Promise<void> {
    return this.#channel.close();
  }
}
