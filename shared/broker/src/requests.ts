import type { ConfirmChannel, ConsumeMessage } from "amqplib";
import type { ReportContract, ReplyOf, RequestContract, Service } from "@muster/contracts/define";
import { replyBody, type ReplyBody } from "@muster/contracts/envelope";
import { faultsOf, MusterError, wireError, type ErrorCode } from "@muster/contracts/errors";
import type { PreparedMessage } from "@muster/contracts/message";
import type { SupervisedChannel } from "./channel.ts";
import type { SupervisedConnection } from "./connection.ts";
import { text } from "./consume.ts";
import type { Health } from "./health.ts";
import type { Instruments } from "./instruments.ts";
import { publishOptions } from "./prepare.ts";
import { readEnvelope } from "./read-envelope.ts";
import type { SenderCheck } from "./sender-check.ts";
import { CoarseTimer } from "./waiting.ts";

export interface RequesterOptions {
  readonly connection: SupervisedConnection;
  readonly instruments: Instruments;
  readonly owner: Service;
  readonly senders: SenderCheck;
  /** Requests waiting for replies at once; more get BACKPRESSURE. */
  readonly pendingMax?: number;
}

interface Pending {
  readonly deadlineMs: number;
  settle(outcome: ReplyBody | MusterError): void;
}

const replyQueue = "amq.rabbitmq.reply-to";
/** A request waits this long at most for a connection that is just coming back. */
const reconnectGraceMs = 2_000;
const retryAfterMs = 1_000;
/** A broker that works confirms in milliseconds. */
const unconfirmedMaxMs = 5_000;

/** Asks one owner over direct reply-to: replies come on the channel that asked, and end with it. */
export class Requester {
  readonly #options: RequesterOptions;
  readonly #pendingMax: number;
  readonly #channel: SupervisedChannel<ConfirmChannel>;
  readonly #pending = new Map<string, Pending>();
  /** When each request was sent of which the broker has not said a word yet, oldest first. */
  readonly #unconfirmed = new Map<string, number>();
  #lastWordMs = 0;
  readonly #timer = new CoarseTimer(50, (nowMs) => this.#expire(nowMs));
  #closed = false;

  constructor(options: RequesterOptions) {
    this.#options = options;
    this.#pendingMax = options.pendingMax ?? 5_000;
    this.#channel = options.connection.keepChannel<ConfirmChannel>({
      name: `requests to ${options.owner}`,
      open: (model) => model.createConfirmChannel(),
      setup: (channel) => this.#setUp(channel),
      lost: (reason) => this.#loseAll(reason),
    });
  }

  health(): Health {
    return this.#channel.health();
  }

  async #setUp(channel: ConfirmChannel): Promise<void> {
    channel.on("return", ({ properties }) => {
      const id: unknown = properties.messageId;
      if (typeof id === "string") this.#fail(id, "DEPENDENCY_UNAVAILABLE", "nobody takes these requests");
    });
    // must come before the first request on this channel
    await channel.consume(replyQueue, (message) => this.#onReply(message), { noAck: true });
  }

  /**
   * Resolves with the validated reply. Throws MusterError: the owner's code, DEADLINE_EXCEEDED,
   * DEPENDENCY_UNAVAILABLE (no owner or no broker), BACKPRESSURE (blocked, queue full, too many pending),
   * CONTRACT_VIOLATION (a reply that breaks the contract), DRAINING (this process is closing).
   */
  async ask<C extends RequestContract | ReportContract>(
    contract: C,
    message: PreparedMessage,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<ReplyOf<C>> {
    const startedMs = performance.now();
    const { requests, requestSeconds } = this.#options.instruments;
    try {
      const outcome = await this.#exchange(message, startedMs + timeoutMs, signal);
      const result = resultOf(contract, outcome);
      requests.inc({ type: contract.name, outcome: "ok" });
      return result;
    } catch (error) {
      const outcome = error instanceof MusterError ? error.code : "INTERNAL";
      requests.inc({ type: contract.name, outcome });
      throw error;
    } finally {
      requestSeconds.observe({ type: contract.name }, (performance.now() - startedMs) / 1_000);
    }
  }

  async #exchange(
    message: PreparedMessage,
    deadlineMs: number,
    signal: AbortSignal | undefined,
  ): Promise<ReplyBody> {
    const channel = await this.#openChannel(deadlineMs);
    if (this.#pending.size >= this.#pendingMax) {
      throw new MusterError("BACKPRESSURE", undefined, { retryAfterMs });
    }
    if (signal?.aborted === true) throw abandoned(signal);
    return new Promise((resolve, reject) => {
      const onAbort = (): void => pending.settle(abandoned(signal));
      const pending: Pending = {
        deadlineMs,
        settle: (outcome) => {
          this.#pending.delete(message.id);
          signal?.removeEventListener("abort", onAbort);
          if (outcome instanceof MusterError) reject(outcome);
          else resolve(outcome);
        },
      };
      this.#pending.set(message.id, pending);
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#timer.start();
      this.#send(channel, message);
    });
  }

  async #openChannel(deadlineMs: number): Promise<ConfirmChannel> {
    if (this.#closed) throw new MusterError("DRAINING");
    if (this.#options.connection.state === "blocked") {
      throw new MusterError("BACKPRESSURE", undefined, { retryAfterMs });
    }
    const channel =
      this.#channel.channel ??
      (await this.#channel.whenOpen(Math.min(reconnectGraceMs, deadlineMs - performance.now())));
    if (channel !== undefined) return channel;
    const cause = new Error(this.#channel.health().reason ?? "no channel");
    throw new MusterError("DEPENDENCY_UNAVAILABLE", undefined, { retryAfterMs, cause });
  }

  #send(channel: ConfirmChannel, message: PreparedMessage): void {
    const options = publishOptions(message, replyQueue);
    options.userId = this.#options.connection.user;
    const { epoch } = this.#channel;
    this.#unconfirmed.set(message.id, performance.now());
    try {
      channel.publish(
        message.exchange,
        message.routingKey,
        Buffer.from(message.body),
        options,
        (error: unknown) => {
          if (epoch === this.#channel.epoch) this.#heard(message.id);
          // a dying channel is #loseAll's business
          if (error instanceof Error && error.message !== "channel closed") {
            this.#fail(message.id, "BACKPRESSURE", "the owner's queue is full");
          }
        },
      );
    } catch (cause) {
      this.#unconfirmed.delete(message.id);
      const code: ErrorCode = cause instanceof RangeError ? "CONTRACT_VIOLATION" : "DEPENDENCY_UNAVAILABLE";
      this.#pending.get(message.id)?.settle(new MusterError(code, undefined, { retryAfterMs, cause }));
    }
  }

  #heard(id: string): void {
    this.#unconfirmed.delete(id);
    this.#lastWordMs = performance.now();
  }

  #onReply(message: ConsumeMessage | null): void {
    if (message === null) {
      this.#channel.reopen("the broker cancelled the reply consumer");
      return;
    }
    const id: unknown = message.properties.correlationId;
    const pending = typeof id === "string" ? this.#pending.get(id) : undefined;
    // a reply after its deadline: nobody waits any more
    if (pending === undefined || !this.#isOfOwner(message)) return;
    pending.settle(readReply(message));
  }

  #isOfOwner({ properties }: ConsumeMessage): boolean {
    const { owner, senders } = this.#options;
    const sent = { userId: text(properties.userId), messageId: text(properties.correlationId) };
    const what = { kind: "reply", name: `${owner}'s reply` } as const;
    return senders.believes(what, sent, (from) => from?.kind === "service" && from.service === owner);
  }

  #fail(id: string, code: ErrorCode, reason: string): void {
    this.#pending
      .get(id)
      ?.settle(new MusterError(code, undefined, { retryAfterMs, cause: new Error(reason) }));
  }

  #loseAll(reason: string): void {
    this.#unconfirmed.clear();
    const cause = new Error(`the channel was lost before the reply: ${reason}`);
    for (const pending of [...this.#pending.values()]) {
      pending.settle(new MusterError("DEPENDENCY_UNAVAILABLE", undefined, { retryAfterMs, cause }));
    }
  }

  #expire(nowMs: number): boolean {
    for (const pending of [...this.#pending.values()]) {
      if (pending.deadlineMs <= nowMs) pending.settle(new MusterError("DEADLINE_EXCEEDED"));
    }
    this.#leaveDeafChannel(nowMs);
    return this.#pending.size > 0 || this.#unconfirmed.size > 0;
  }

  /**
   * A queue without a leader holds up the channel, and one that was made anew never takes what a channel sends that
   * knew the old one (RabbitMQ counts what each channel sends to a queue): only another channel gets through.
   */
  #leaveDeafChannel(nowMs: number): void {
    const [oldestMs] = this.#unconfirmed.values();
    if (oldestMs === undefined) return;
    // while the broker blocks, it confirms nothing; its time begins afterwards
    if (this.#options.connection.state !== "connected") this.#lastWordMs = nowMs;
    if (nowMs - Math.max(oldestMs, this.#lastWordMs) < unconfirmedMaxMs) return;
    this.#channel.reopen("requests were left unconfirmed");
  }

  /** Asks no more; those waiting get DRAINING. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const pending of [...this.#pending.values()]) pending.settle(new MusterError("DRAINING"));
    this.#timer.stop();
    await this.#channel.close();
  }
}

function abandoned(signal: AbortSignal | undefined): MusterError {
  return new MusterError("DEADLINE_EXCEEDED", "the asker gave up", { cause: signal?.reason });
}

function readReply(message: ConsumeMessage): ReplyBody | MusterError {
  try {
    const envelope = readEnvelope({
      body: message.content,
      contentType: String(message.properties.contentType),
      headers: message.properties.headers ?? {},
    });
    const body = replyBody.safeParse(envelope.data);
    if (body.success) return body.data;
    return brokenReply(body.error);
  } catch (error) {
    return error instanceof MusterError ? error : brokenReply(error);
  }
}

function resultOf<C extends RequestContract | ReportContract>(contract: C, reply: ReplyBody): ReplyOf<C> {
  if (!reply.ok) {
    const error = wireError.safeParse(reply.error);
    if (!error.success) throw brokenReply(error.error);
    throw MusterError.fromWire(error.data);
  }
  const parsed = contract.reply.safeParse(reply.result);
  if (parsed.success) return parsed.data as ReplyOf<C>;
  throw new MusterError("CONTRACT_VIOLATION", `the reply to ${contract.name} breaks its contract`, {
    details: faultsOf(parsed.error, "reply"),
    cause: parsed.error,
  });
}

function brokenReply(cause: unknown): MusterError {
  return new MusterError("CONTRACT_VIOLATION", "a reply is not readable", { cause });
}
