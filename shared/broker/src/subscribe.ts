import type { EventContract, PayloadOf, Service, Subscription } from "@muster/contracts/define";
import type { Envelope, WorkContext } from "@muster/contracts/envelope";
import { MusterError } from "@muster/contracts/errors";
import type { PreparedMessage, PublishVerdict } from "@muster/contracts/message";
import type { Logger } from "@muster/telemetry/logger";
import { runWith } from "@muster/telemetry/context";
import type { Consumer, RawDelivery } from "./consume.ts";
import { errorKindOf, fateOf } from "./failure-policy.ts";
import { unhealthy, type Health } from "./health.ts";
import type { DeliveryOutcome, Instruments } from "./instruments.ts";
import { mayTell, type Sender } from "@muster/contracts/senders";
import { retriesExchange } from "@muster/contracts/topology";
import { handlerOf } from "./handlers.ts";
import { Lane } from "./lanes.ts";
import { contextOf, readEnvelope, readPayload, trailOf } from "./read-envelope.ts";
import { deadLetterCopy, retryCopy } from "./retry.ts";
import type { SenderCheck } from "./sender-check.ts";
import { fullJitterMs, pause } from "./waiting.ts";

export type EventContext = WorkContext & {
  readonly messageId: string;
  readonly source: string;
  /** When it happened at its publisher, RFC 3339. */
  readonly time: string;
  readonly subject?: string | undefined;
  readonly attempt: number;
};

export interface EventItem<C extends EventContract> {
  readonly id: string;
  readonly payload: PayloadOf<C>;
  readonly context: EventContext;
}

/** One handler per event; gets what came in a row, within the transaction that also records the ids. */
export type EventHandlers<E extends Record<string, EventContract>, T> = {
  readonly [K in keyof E]: (tx: T, events: readonly EventItem<E[K]>[]) => Promise<void>;
};

/** Runs work once per message id: ids already recorded are missing from `freshIds`; ids and effect commit together. */
export type Runner<T> = <R>(
  messages: readonly { id: string; tenantId: string | null }[],
  work: (tx: T, freshIds: ReadonlySet<string>) => Promise<R>,
) => Promise<R>;

export interface SubscriberOptions<T> {
  readonly subscription: Subscription;
  readonly queue: string;
  readonly run: Runner<T>;
  readonly handlers: object;
  readonly senders: SenderCheck;
  readonly publish: (message: PreparedMessage) => Promise<PublishVerdict>;
  readonly logger: Logger;
  readonly instruments: Instruments;
  readonly drainTimeoutMs: number;
}

interface Job {
  readonly delivery: RawDelivery;
  readonly envelope: Envelope;
  readonly payload: unknown;
}

type ErasedHandler<T> = (tx: T, events: readonly EventItem<EventContract>[]) => Promise<void>;

/** Batches of events through the inbox: each effect once; one bad message fails alone. */
export class Subscriber<T> implements Consumer {
  readonly queue: string;
  readonly #options: SubscriberOptions<T>;
  readonly #service: Service;
  readonly #byType = new Map<string, { contract: EventContract; handler: ErasedHandler<T> }>();
  readonly #lane: Lane<Job>;
  readonly #stopping = new AbortController();
  #consumer: { stop(): Promise<void>; close(): Promise<void>; health(): Health } | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: SubscriberOptions<T>) {
    const { subscription, handlers, logger } = options;
    this.queue = options.queue;
    this.#options = options;
    this.#service = subscription.service;
    for (const [key, contract] of Object.entries(subscription.events)) {
      const handler = handlerOf(handlers, key, contract.name);
      const handle: ErasedHandler<T> = async (tx, events) => {
        await handler(tx, events);
      };
      this.#byType.set(contract.name, { contract, handler: handle });
    }
    // one batch at a time: what came in order is handled in order
    this.#lane = new Lane<Job>(
      { ...subscription.batch, concurrency: 1 },
      (jobs) => this.#work(jobs),
      (error) => logger.error({ err: error }, "a batch could not be settled"),
    );
  }

  attach(consumer: { stop(): Promise<void>; close(): Promise<void>; health(): Health }): void {
    this.#consumer = consumer;
  }

  health(): Health {
    return this.#consumer?.health() ?? unhealthy("not consuming yet");
  }

  onDelivery(delivery: RawDelivery): void {
    if (this.#stopping.signal.aborted) {
      delivery.nackNotAttempted();
      return;
    }
    let envelope: Envelope;
    try {
      envelope = readEnvelope(delivery);
    } catch (error) {
      this.#options.logger.warn({ err: error, message_id: delivery.messageId }, "unreadable message");
      delivery.reject(false);
      this.#count("dead_lettered");
      return;
    }
    const job = { delivery, envelope, payload: undefined };
    try {
      const known = this.#byType.get(envelope.type);
      if (known === undefined) {
        throw new MusterError("UNSUPPORTED_MESSAGE", `no handler here for ${envelope.type}`);
      }
      const may = (sender: Sender | undefined): boolean =>
        mayTell(known.contract, sender) || this.#isOwnRetry(delivery, sender);
      this.#options.senders.refuseForged(known.contract, delivery, may);
      const bytes = delivery.body.length;
      const payload = readPayload(known.contract, envelope, bytes, "CONTRACT_VIOLATION", "data");
      this.#lane.push({ ...job, payload });
    } catch (error) {
      this.#fail(job, error);
    }
  }

  /** What waited in a tier's queue is our own copy. */
  #isOwnRetry({ exchange }: RawDelivery, sender: Sender | undefined): boolean {
    return exchange === retriesExchange && sender?.kind === "service" && sender.service === this.#service;
  }

  async #work(jobs: readonly Job[]): Promise<void> {
    const failure = await this.#attempt(jobs);
    if (failure === undefined) return;
    const only = jobs.length === 1 ? jobs[0] : undefined;
    if (only !== undefined) {
      this.#fail(only, failure.error);
      return;
    }
    this.#options.logger.warn(
      { err: failure.error, size: jobs.length },
      "a batch failed; each message alone",
    );
    for (const job of jobs) {
      const alone = await this.#attempt([job]);
      if (alone !== undefined) this.#fail(job, alone.error);
    }
  }

  /** Handles and acknowledges, or answers with what went wrong, the whole rolled back. */
  async #attempt(jobs: readonly Job[]): Promise<{ error: unknown } | undefined> {
    const messages = jobs.map(({ envelope }) => ({ id: envelope.id, tenantId: envelope.tenantid ?? null }));
    const startedMs = performance.now();
    let fresh: ReadonlySet<string> = new Set();
    try {
      await this.#options.run(messages, async (tx, freshIds) => {
        fresh = freshIds;
        await this.#handle(tx, firstOfEach(jobs, freshIds));
      });
    } catch (error) {
      return { error };
    } finally {
      const type = jobs.length === 1 ? (jobs[0]?.envelope.type ?? "batch") : "batch";
      const seconds = (performance.now() - startedMs) / 1_000;
      this.#options.instruments.handlerSeconds.observe({ queue: this.queue, type }, seconds);
    }
    const seen = new Set<string>();
    for (const { delivery, envelope } of jobs) {
      if (fresh.has(envelope.id)) seen.add(envelope.id);
      delivery.ack();
      if (this.#options.logger.isLevelEnabled("debug")) {
        this.#options.logger.debug({ ...trailOf(envelope), fresh: fresh.has(envelope.id) }, "handled");
      }
    }
    this.#count("acked", seen.size);
    if (seen.size < jobs.length) this.#count("duplicate", jobs.length - seen.size);
    return undefined;
  }

  /** In order of arrival: consecutive events of one kind go to their handler together. */
  async #handle(tx: T, jobs: readonly Job[]): Promise<void> {
    for (let from = 0; from < jobs.length;) {
      const type = jobs[from]?.envelope.type ?? "";
      let to = from + 1;
      while (jobs[to]?.envelope.type === type) to += 1;
      const events = jobs.slice(from, to).map(({ envelope, payload }) => ({
        id: envelope.id,
        payload,
        context: eventContext(envelope),
      }));
      const handler = this.#byType.get(type)?.handler;
      const only = events.length === 1 ? events[0] : undefined;
      if (only === undefined) await handler?.(tx, events);
      else await runWith(only.context, async () => handler?.(tx, events));
      from = to;
    }
  }

  /** Puts a failed message where the policy says. It stays unsettled until it is safely there. */
  #fail(job: Job, error: unknown): void {
    const { delivery, envelope } = job;
    const attempt = envelope.attempt ?? 1;
    const kind = errorKindOf(error);
    const fate = fateOf(kind, attempt, this.#options.subscription.retry);
    const log = { err: error, ...trailOf(envelope), attempt, fate };
    this.#options.logger.warn(log, "handling a message failed");
    if (fate.kind === "drop") {
      delivery.ack();
      this.#count("dropped");
      return;
    }
    const failure = { envelope, attempt, error, queue: this.queue, now: new Date() };
    const copy =
      fate.kind === "retry" ? retryCopy(failure, this.#service, fate.tier) : deadLetterCopy(failure);
    this.#moveThenAck(delivery, copy, fate.kind === "retry" ? "retried" : "dead_lettered").catch(
      (unexpected: unknown) => {
        this.#options.logger.error({ err: unexpected }, "a failed message goes to the dead letters as it is");
        delivery.reject(false);
      },
    );
  }

  /** Off the lane: a broker that does not take copies must not hold up the healthy messages in between. */
  async #moveThenAck(delivery: RawDelivery, copy: PreparedMessage, outcome: DeliveryOutcome): Promise<void> {
    for (let tries = 0; !delivery.settled; tries++) {
      const verdict = await this.#options.publish(copy);
      if (verdict.kind === "routed") {
        delivery.ack();
        this.#count(outcome);
        return;
      }
      this.#options.logger.warn({ verdict, exchange: copy.exchange }, "a failed message could not be moved");
      if (this.#stopping.signal.aborted) {
        delivery.nackNotAttempted();
        return;
      }
      await pause(fullJitterMs(tries, 200, 10_000), this.#stopping.signal);
    }
  }

  #count(outcome: DeliveryOutcome, howMany = 1): void {
    this.#options.instruments.deliveries.inc({ queue: this.queue, outcome }, howMany);
  }

  /** Takes no more, gives back what nobody began, lets the running batch end within the bound. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#stopping.abort();
    await this.#consumer?.stop();
    for (const job of this.#lane.takeUnstarted()) job.delivery.nackNotAttempted();
    await this.#lane.idle(this.#options.drainTimeoutMs);
    await this.#consumer?.close();
  }
}

/** Fresh jobs, one per id: the same message may be in a batch twice. */
function firstOfEach(jobs: readonly Job[], freshIds: ReadonlySet<string>): Job[] {
  const seen = new Set<string>();
  return jobs.filter(({ envelope: { id } }) => {
    if (!freshIds.has(id) || seen.has(id)) return false;
    seen.add(id);
    return true;
  });
}

const eventContext = (envelope: Envelope): EventContext =>
  Object.assign(contextOf(envelope), {
    messageId: envelope.id,
    source: envelope.source,
    time: envelope.time,
    subject: envelope.subject,
    attempt: envelope.attempt ?? 1,
  });
