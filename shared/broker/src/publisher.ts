import type { ConfirmChannel, Options } from "amqplib";
import type { Logger } from "@muster/telemetry/logger";
import type { PreparedMessage, PublishVerdict } from "@muster/contracts/message";
import type { SupervisedChannel } from "./channel.ts";
import type { SupervisedConnection } from "./connection.ts";
import type { Health } from "./health.ts";
import type { Instruments } from "./instruments.ts";
import { publishOptions } from "./prepare.ts";
import { CoarseTimer, Condition } from "./waiting.ts";

export interface PublisherOptions {
  readonly connection: SupervisedConnection;
  readonly logger: Logger;
  readonly instruments: Instruments;
  /** Confirms outstanding at once. */
  readonly windowMax?: number;
  /** Bytes outstanding at once; one larger message alone is let through. */
  readonly windowBytesMax?: number;
  /** Messages that wait for the window; more are refused. */
  readonly waitingMax?: number;
}

interface Entry {
  readonly message: PreparedMessage;
  readonly body: Buffer;
  readonly options: Options.Publish;
  readonly startedMs: number;
  deadlineMs: number;
  readonly resolve: (verdict: PublishVerdict) => void;
  settled: boolean;
  /** Channels that it was written to; above 0 the broker may have it. */
  writes: number;
  returned: string | undefined;
}

/** A message that took this many channels with it is not sent again. */
const writesMax = 3;
const timeoutMsDefault = 10_000;
/** What was held up by another's fault gets at least this long on the next channel. */
const onceMoreMs = 5_000;
/** A channel that owes this many confirms beyond their time is replaced. */
const unansweredMax = 100;

/**
 * Publishes with confirms, mandatory, persistent. Messages in flight when a channel or connection dies are
 * sent again on the next, with the same id, until their time is up: consumers see an id twice at worst.
 */
export class Publisher {
  readonly #options: PublisherOptions;
  readonly #windowMax: number;
  readonly #windowBytesMax: number;
  readonly #waitingMax: number;
  readonly #channel: SupervisedChannel<ConfirmChannel>;
  readonly #timer = new CoarseTimer(100, (nowMs) => this.#expire(nowMs));
  readonly #flushed = new Condition(() => this.#inFlight.size === 0 && this.#waiting.length === 0);
  #inFlight = new Set<Entry>();
  #waiting: Entry[] = [];
  #bytes = 0;
  /** Given up on this channel; the client's library remembers them as long as the channel lives. */
  #unanswered = 0;
  #confirmedMs = 0;
  #congested = false;
  #closing = false;

  constructor(options: PublisherOptions) {
    this.#options = options;
    this.#windowMax = options.windowMax ?? 200;
    this.#windowBytesMax = options.windowBytesMax ?? 16 * 1024 * 1024;
    this.#waitingMax = options.waitingMax ?? 10_000;
    this.#channel = options.connection.keepChannel<ConfirmChannel>({
      name: "publish",
      open: (model) => model.createConfirmChannel(),
      setup: async (channel) => this.#setUp(channel),
      lost: (reason) => this.#restore(reason),
    });
  }

  health(): Health {
    return this.#channel.health();
  }

  whenOpen(timeoutMs: number): Promise<unknown> {
    return this.#channel.whenOpen(timeoutMs);
  }

  publish(message: PreparedMessage, timeoutMs: number = timeoutMsDefault): Promise<PublishVerdict> {
    if (this.#closing) return this.#refuse(message, "closed");
    if (this.#options.connection.state === "blocked") {
      return this.#refuse(message, "the broker has blocked publishing");
    }
    if (this.#waiting.length >= this.#waitingMax) {
      return this.#refuse(message, `${this.#waitingMax} messages wait already`);
    }
    return new Promise((resolve) => {
      const startedMs = performance.now();
      const entry: Entry = {
        message,
        body: Buffer.from(message.body),
        options: publishOptions(message),
        startedMs,
        deadlineMs: startedMs + timeoutMs,
        resolve,
        settled: false,
        writes: 0,
        returned: undefined,
      };
      this.#timer.start();
      if (this.#waiting.length > 0 || !this.#sendNow(entry)) this.#waiting.push(entry);
    });
  }

  #refuse(message: PreparedMessage, reason: string): Promise<PublishVerdict> {
    this.#options.instruments.published.inc({ type: message.type, verdict: "refused" });
    return Promise.resolve({ kind: "refused", reason });
  }

  async #setUp(channel: ConfirmChannel): Promise<void> {
    this.#congested = false;
    channel.on("return", ({ fields, properties }) => {
      const id: unknown = properties.messageId;
      for (const entry of this.#inFlight) {
        const { message } = entry;
        if (message.id !== id || entry.returned !== undefined) continue;
        if (Reflect.get(fields, "routingKey") !== message.routingKey || fields.exchange !== message.exchange)
          continue;
        entry.returned = `no queue takes ${message.routingKey} at ${message.exchange || "the default exchange"}`;
        return;
      }
    });
    channel.on("drain", () => {
      this.#congested = false;
      this.#pump();
    });
    // the channel counts as open only after this returns
    setImmediate(() => this.#pump());
  }

  #pump(): void {
    let sent = 0;
    for (const entry of this.#waiting) {
      if (!entry.settled && !this.#sendNow(entry)) break;
      sent += 1;
    }
    if (sent > 0) this.#waiting.splice(0, sent);
  }

  /** False when it must wait: for the channel, the broker or the window. */
  #sendNow(entry: Entry): boolean {
    const channel = this.#channel.channel;
    if (channel === undefined || this.#options.connection.state === "blocked") return false;
    if (this.#congested || this.#inFlight.size >= this.#windowMax) return false;
    if (this.#inFlight.size > 0 && this.#bytes + entry.body.length > this.#windowBytesMax) return false;
    return this.#send(channel, entry);
  }

  /** False when the channel turned out to be closed. */
  #send(channel: ConfirmChannel, entry: Entry): boolean {
    const { exchange, routingKey } = entry.message;
    const { epoch } = this.#channel;
    try {
      entry.returned = undefined;
      entry.options.userId = this.#options.connection.user;
      const room = channel.publish(exchange, routingKey, entry.body, entry.options, (error: unknown) =>
        this.#onConfirm(entry, epoch, error),
      );
      if (!room) this.#congested = true;
    } catch (error) {
      if (error instanceof Error && error.name === "IllegalOperationError") return false;
      this.#settle(entry, { kind: "unroutable", reason: `cannot be encoded: ${String(error)}` });
      return true;
    }
    entry.writes += 1;
    this.#inFlight.add(entry);
    this.#bytes += entry.body.length;
    return true;
  }

  #onConfirm(entry: Entry, epoch: number, error: unknown): void {
    // amqplib fails what is outstanding on a dying channel; #restore sees to those
    if (error instanceof Error && error.message === "channel closed") return;
    if (epoch !== this.#channel.epoch || !this.#inFlight.delete(entry)) return;
    this.#bytes -= entry.body.length;
    this.#confirmedMs = performance.now();
    if (error !== null)
      this.#settle(entry, { kind: "nacked", reason: "the queue is full or its node is failing" });
    else if (entry.returned !== undefined)
      this.#settle(entry, { kind: "unroutable", reason: entry.returned });
    else this.#settle(entry, { kind: "routed" });
    if (this.#waiting.length > 0) this.#pump();
    this.#flushed.poke();
  }

  #settle(entry: Entry, verdict: PublishVerdict): void {
    if (entry.settled) return;
    entry.settled = true;
    const { published, confirmSeconds } = this.#options.instruments;
    published.inc({ type: entry.message.type, verdict: verdict.kind });
    if (entry.writes > 0) confirmSeconds.observe((performance.now() - entry.startedMs) / 1_000);
    if (this.#options.logger.isLevelEnabled("debug")) {
      const { id, type, exchange, routingKey, headers } = entry.message;
      const trail = { message_id: id, type, correlation_id: headers["cloudEvents_correlationid"] };
      this.#options.logger.debug({ ...trail, exchange, routing_key: routingKey, verdict }, "published");
    }
    entry.resolve(verdict);
  }

  /** The channel died: what was in flight goes to the front again, except what killed the channel. */
  #restore(reason: string): void {
    const culprit = /exchange '([^']*)' in vhost/.exec(reason)?.[1];
    const again: Entry[] = [];
    for (const entry of this.#inFlight) {
      if (entry.settled) continue;
      if (culprit !== undefined && entry.message.exchange === culprit) {
        this.#settle(entry, { kind: "unroutable", reason });
      } else if (entry.writes >= writesMax) this.#settle(entry, { kind: "unknown", reason });
      else again.push(entry);
    }
    this.#inFlight = new Set();
    this.#bytes = 0;
    this.#unanswered = 0;
    this.#waiting = again.concat(this.#waiting);
    this.#flushed.poke();
  }

  /** To be called when the broker blocks or unblocks the connection. */
  onBlocked(blocked: boolean): void {
    if (!blocked) {
      this.#pump();
      return;
    }
    for (const entry of this.#waiting) this.#giveUp(entry, "the broker has blocked publishing");
    this.#waiting = [];
    this.#flushed.poke();
  }

  #giveUp(entry: Entry, reason: string): void {
    this.#settle(entry, { kind: entry.writes > 0 ? "unknown" : "refused", reason });
  }

  #expire(nowMs: number): boolean {
    this.#expireInFlight(nowMs);
    if (this.#waiting.some((entry) => entry.deadlineMs <= nowMs)) {
      const { ok, reason } = this.#channel.health();
      for (const entry of this.#waiting) {
        if (entry.deadlineMs <= nowMs)
          this.#giveUp(entry, ok ? "no room in the window in time" : (reason ?? ""));
      }
      this.#waiting = this.#waiting.filter((entry) => !entry.settled);
      this.#flushed.poke();
    }
    return this.#inFlight.size > 0 || this.#waiting.length > 0;
  }

  /**
   * What is never confirmed must not fill the window. A queue without a leader holds up all that was written to the
   * channel after it (RabbitMQ asks it with the channel waiting): then only the first is given up, and the rest goes
   * on, on another channel.
   */
  #expireInFlight(nowMs: number): void {
    const [first] = this.#inFlight;
    if (first === undefined || first.deadlineMs > nowMs) return;
    const stalled = this.#confirmedMs < first.startedMs;
    for (const entry of stalled ? [first] : this.#inFlight) {
      if (entry.deadlineMs > nowMs) continue;
      this.#giveUp(entry, "no confirm in time");
      this.#inFlight.delete(entry);
      this.#bytes -= entry.body.length;
      this.#unanswered += 1;
    }
    if (stalled || this.#unanswered >= unansweredMax) {
      for (const entry of this.#inFlight) entry.deadlineMs = Math.max(entry.deadlineMs, nowMs + onceMoreMs);
      this.#channel.reopen("publishes were left unconfirmed");
    }
    this.#flushed.poke();
  }

  /** Takes no more, waits up to `timeoutMs` for the confirms, then settles the rest as unknown. Idempotent. */
  async close(timeoutMs = 5_000): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    await this.#flushed.reached(timeoutMs);
    for (const entry of [...this.#inFlight, ...this.#waiting]) this.#giveUp(entry, "closed");
    this.#inFlight.clear();
    this.#waiting = [];
    this.#timer.stop();
    await this.#channel.close();
  }
}
