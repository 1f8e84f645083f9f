import type {
  BatchPolicy,
  PayloadOf,
  ReplyInputOf,
  ReportContract,
  RequestContract,
} from "@muster/contracts/define";
import { replyType, type Envelope, type ReplyBody, type WorkContext } from "@muster/contracts/envelope";
import { commonRequestCodes, type Service } from "@muster/contracts/define";
import { faultsOf, MusterError, type ErrorCode } from "@muster/contracts/errors";
import type { Principal } from "@muster/contracts/principal";
import { mayAsk, mayReport } from "@muster/contracts/senders";
import type { Logger } from "@muster/telemetry/logger";
import { runWith } from "@muster/telemetry/context";
import type { Consumer, RawDelivery } from "./consume.ts";
import { unhealthy, type Health } from "./health.ts";
import { queueLabel, type DeliveryOutcome, type Instruments } from "./instruments.ts";
import { handlerOf } from "./handlers.ts";
import { Lane } from "./lanes.ts";
import { attributesOf, prepareReply } from "./prepare.ts";
import { contextOf, readEnvelope, readPayload, trailOf } from "./read-envelope.ts";
import type { SenderCheck } from "./sender-check.ts";
import { Condition } from "./waiting.ts";

export type RequestContext = WorkContext & {
  readonly messageId: string;
  /** The service that asks, as the broker vouches for it; absent for reports. */
  readonly asker?: Service;
  /** Present where the contract's identity is "caller". */
  readonly principal?: Principal;
  /** How long the asker still waits, in milliseconds. */
  readonly remainingMs: number;
};
export type ReportContext = RequestContext & {
  readonly tenantId: string;
  readonly agentId: string;
  /** Of the pairing that the agent logged in by. */
  readonly epoch: number;
};

export interface RequestItem<C extends RequestContract> {
  readonly payload: PayloadOf<C>;
  readonly context: RequestContext;
}
export interface ReportItem<C extends ReportContract> {
  readonly payload: PayloadOf<C>;
  readonly context: ReportContext;
}

/** One handler per contract; a batch contract's handler answers each item, in the order of the items. */
export type RequestHandlers<R extends Record<string, RequestContract>> = {
  readonly [K in keyof R]: R[K] extends { readonly batch: BatchPolicy }
    ? (items: readonly RequestItem<R[K]>[]) => Promise<readonly (ReplyInputOf<R[K]> | MusterError)[]>
    : (payload: PayloadOf<R[K]>, context: RequestContext) => Promise<ReplyInputOf<R[K]>>;
};
export type ReportHandlers<R extends Record<string, ReportContract>> = {
  readonly [K in keyof R]: (
    items: readonly ReportItem<R[K]>[],
  ) => Promise<readonly (ReplyInputOf<R[K]> | MusterError)[]>;
};

/** A handler whose types have been checked where it was given. */
type ErasedHandler = (items: readonly ErasedItem[]) => Promise<readonly unknown[]>;
interface ErasedItem {
  readonly payload: unknown;
  readonly context: RequestContext & { readonly agentId?: string };
}
interface Job extends ErasedItem {
  readonly delivery: RawDelivery;
  readonly envelope: Envelope;
}

export interface Route {
  readonly contract: RequestContract | ReportContract;
  readonly handler: ErasedHandler;
}

/** For whom a request is asked; `asked` is its wire name and the service that asks. Throws MusterError. */
export type Identify = (
  token: string | undefined,
  asked: { readonly name: string; readonly asker: Service },
) => Promise<Principal>;

export interface ServerOptions {
  readonly queue: string;
  /** `/muster/<service>`, of the replies. */
  readonly source: string;
  /** By wire name. */
  readonly routes: ReadonlyMap<string, Route>;
  /** Present for reports: tenant and agent, which the broker has authorised in the routing key. */
  readonly sender?: (
    delivery: RawDelivery,
    contract: ReportContract,
  ) => { tenantId: string; agentId: string };
  readonly identify: Identify | undefined;
  readonly senders: SenderCheck;
  readonly reply: (to: string, correlationId: string, body: string) => void;
  readonly logger: Logger;
  readonly instruments: Instruments;
  readonly singleConcurrency: number;
  readonly batchConcurrency: number;
  readonly drainTimeoutMs: number;
}

/** Clocks of services differ; a request this late is still handled, its asker has gone at worst. */
const clockSkewMs = 1_000;

export function requestRoutes(
  requests: Record<string, RequestContract | ReportContract>,
  handlers: object,
): Map<string, Route> {
  const routes = new Map<string, Route>();
  for (const [key, contract] of Object.entries(requests)) {
    const handler = handlerOf(handlers, key, contract.name);
    const batched = contract.batch !== undefined;
    routes.set(contract.name, {
      contract,
      handler: async (items) => {
        if (!batched) return [await handler(items[0]?.payload, items[0]?.context)];
        const answers = await handler(items);
        return Array.isArray(answers) ? (answers as readonly unknown[]) : [];
      },
    });
  }
  return routes;
}

/** Answers the requests of one queue: reads, checks, identifies, handles in lanes, replies, then acknowledges. */
export class RequestServer implements Consumer {
  readonly queue: string;
  readonly #options: ServerOptions;
  readonly #label: string;
  readonly #lanes = new Map<string, Lane<Job>>();
  readonly #admitted = new Condition(() => this.#admitting === 0);
  #admitting = 0;
  #consumer: { stop(): Promise<void>; close(): Promise<void>; health(): Health } | undefined;
  #draining = false;
  #closing: Promise<void> | undefined;

  constructor(options: ServerOptions) {
    this.queue = options.queue;
    this.#options = options;
    this.#label = queueLabel(options.queue);
    for (const [name, route] of options.routes) {
      const { batch } = route.contract;
      const shape =
        batch === undefined
          ? { sizeMax: 1, waitMs: 0, concurrency: options.singleConcurrency }
          : { ...batch, concurrency: options.batchConcurrency };
      const onError = (error: unknown): void =>
        options.logger.error({ err: error, type: name }, "a lane failed");
      this.#lanes.set(name, new Lane<Job>(shape, (jobs) => this.#work(route, jobs), onError));
    }
  }

  attach(consumer: { stop(): Promise<void>; close(): Promise<void>; health(): Health }): void {
    this.#consumer = consumer;
  }

  health(): Health {
    return this.#consumer?.health() ?? unhealthy("not consuming yet");
  }

  onDelivery(delivery: RawDelivery): void {
    if (this.#draining) {
      delivery.nackNotAttempted();
      return;
    }
    this.#admitting += 1;
    this.#admit(delivery)
      .catch((error: unknown) => {
        this.#options.logger.error({ err: error }, "a request could not be admitted");
        this.#settle(delivery, "dead_lettered");
      })
      .finally(() => {
        this.#admitting -= 1;
        this.#admitted.poke();
      });
  }

  async #admit(delivery: RawDelivery): Promise<void> {
    const envelope = this.#read(delivery);
    if (envelope === undefined) {
      this.#settle(delivery, "dead_lettered");
      return;
    }
    const route = this.#options.routes.get(envelope.type);
    if (route === undefined) {
      this.#answer(delivery, envelope, new MusterError("UNSUPPORTED_MESSAGE"));
      return;
    }
    const remainingMs = this.#remainingMs(envelope, route);
    if (remainingMs <= 0) {
      this.#settle(delivery, "late");
      return;
    }
    try {
      const context = await this.#contextFor(delivery, envelope, route, remainingMs);
      const payload = readPayload(route.contract, envelope, delivery.body.length, "VALIDATION_FAILED");
      if (this.#draining) {
        delivery.nackNotAttempted();
        return;
      }
      this.#lanes.get(envelope.type)?.push({ delivery, envelope, payload, context });
    } catch (error) {
      this.#answer(delivery, envelope, error);
    }
  }

  #read(delivery: RawDelivery): Envelope | undefined {
    try {
      return readEnvelope(delivery);
    } catch (error) {
      this.#options.logger.warn({ err: error, message_id: delivery.messageId }, "unreadable request");
      return undefined;
    }
  }

  /** Agents' clocks prove nothing, so a report is never late; its answer is worth what it is worth. */
  #remainingMs(envelope: Envelope, route: Route): number {
    const timeoutMs = envelope.timeoutms ?? route.contract.timeoutMs;
    if (route.contract.kind === "report") return timeoutMs;
    const leftMs = Date.parse(envelope.time) + timeoutMs - Date.now();
    if (leftMs <= -clockSkewMs) return 0;
    return Math.max(1, Math.min(timeoutMs, leftMs));
  }

  async #contextFor(
    delivery: RawDelivery,
    envelope: Envelope,
    route: Route,
    remainingMs: number,
  ): Promise<ErasedItem["context"]> {
    const { contract } = route;
    const { sender: senderOf, senders, identify } = this.#options;
    const context = requestContext(envelope, remainingMs);
    if (contract.kind === "report") {
      const sender = senderOf?.(delivery, contract);
      if (sender === undefined) throw new MusterError("UNSUPPORTED_MESSAGE");
      const from = senders.refuseForged(contract, delivery, (one) => mayReport(sender.agentId, one));
      return Object.assign(context, sender, { epoch: from.kind === "agent" ? from.epoch : 0 });
    }
    const from = senders.refuseForged(contract, delivery, (one) => mayAsk(contract, one));
    if (from.kind !== "service") throw new MusterError("FORBIDDEN");
    const asker = from.service;
    if (contract.identity === "none") return Object.assign(context, { asker });
    if (identify === undefined) {
      throw new Error(
        `${contract.name} needs the caller's identity, but the broker was opened without identify`,
      );
    }
    const principal = await identify(envelope.identity, { name: contract.name, asker });
    return Object.assign(context, { asker, principal, tenantId: principal.tenant_id });
  }

  async #work(route: Route, jobs: readonly Job[]): Promise<void> {
    const first = jobs[0];
    if (first === undefined) return;
    const outcome = await this.#handle(route, jobs);
    if (outcome instanceof Outcomes) {
      this.#answerAll(route, jobs, outcome.list);
      return;
    }
    if (jobs.length === 1) {
      this.#answer(first.delivery, first.envelope, outcome);
      return;
    }
    // one of them may have spoilt it for all: each alone, once
    this.#options.logger.warn(
      { err: outcome, type: route.contract.name, size: jobs.length },
      "a batch failed",
    );
    for (const job of jobs) {
      const alone = await this.#handle(route, [job]);
      if (alone instanceof Outcomes) this.#answerAll(route, [job], alone.list);
      else this.#answer(job.delivery, job.envelope, alone);
    }
  }

  async #handle(route: Route, jobs: readonly Job[]): Promise<unknown> {
    const startedMs = performance.now();
    const items = jobs.map(({ payload, context }) => ({ payload, context }));
    try {
      const call = (): Promise<readonly unknown[]> => route.handler(items);
      const only = jobs.length === 1 ? jobs[0] : undefined;
      const list = await (only === undefined ? call() : runWith(only.context, call));
      if (list.length === jobs.length) return new Outcomes(list);
      return new Error(`${route.contract.name}: ${list.length} answers to ${jobs.length} items`);
    } catch (error) {
      return error ?? new Error("a handler threw nothing");
    } finally {
      const seconds = (performance.now() - startedMs) / 1_000;
      this.#options.instruments.handlerSeconds.observe(
        { queue: this.#label, type: route.contract.name },
        seconds,
      );
    }
  }

  #answerAll(route: Route, jobs: readonly Job[], answers: readonly unknown[]): void {
    jobs.forEach((job, at) => {
      const answer = answers[at];
      if (answer instanceof Error) {
        this.#answer(job.delivery, job.envelope, answer);
        return;
      }
      const parsed = route.contract.reply.safeParse(answer);
      if (parsed.success) {
        this.#reply(job.delivery, job.envelope, { ok: true, result: parsed.data });
        return;
      }
      this.#options.logger.error(
        { faults: faultsOf(parsed.error, "reply"), type: route.contract.name },
        "bad reply",
      );
      this.#answer(job.delivery, job.envelope, new MusterError("CONTRACT_VIOLATION"));
    });
  }

  /** An error reply: a MusterError as it is, anything else INTERNAL with the cause in the log only. */
  #answer(delivery: RawDelivery, envelope: Envelope, error: unknown): void {
    const known =
      error instanceof MusterError ? error : new MusterError("INTERNAL", undefined, { cause: error });
    const log = { err: error, ...trailOf(envelope) };
    if (known.code === "INTERNAL") this.#options.logger.error(log, "a request failed");
    else if (!this.#declared(envelope.type, known.code)) {
      this.#options.logger.error(log, "answered with a code that the contract does not declare");
    }
    // Nobody would hear the refusal: kept for people instead.
    if (!mayReply(delivery)) this.#settle(delivery, "dead_lettered");
    else this.#reply(delivery, envelope, { ok: false, error: known.toWire() });
  }

  #declared(type: string, code: ErrorCode): boolean {
    const contract = this.#options.routes.get(type)?.contract;
    if (contract === undefined) return true;
    return contract.codes.includes(code) || commonRequestCodes.some((common) => common === code);
  }

  #reply(delivery: RawDelivery, envelope: Envelope, body: ReplyBody): void {
    if (mayReply(delivery) && !delivery.settled) {
      const { source, reply } = this.#options;
      const attributes = attributesOf(
        replyType(envelope.type).slice(0, 255),
        source,
        contextOf(envelope),
        undefined,
      );
      try {
        const message = prepareReply(attributes, body);
        reply(delivery.replyTo, delivery.correlationId ?? envelope.id, message.body);
        if (this.#options.logger.isLevelEnabled("debug")) {
          this.#options.logger.debug({ ...trailOf(envelope), ok: body.ok }, "answered");
        }
      } catch (error) {
        this.#options.logger.error({ err: error, type: envelope.type }, "a reply could not be made");
      }
    }
    this.#settle(delivery, "acked");
  }

  #settle(delivery: RawDelivery, outcome: DeliveryOutcome): void {
    if (delivery.settled) return;
    this.#options.instruments.deliveries.inc({ queue: this.#label, outcome });
    if (outcome === "dead_lettered") delivery.reject(false);
    else delivery.ack();
  }

  /** Takes no more, gives back what nobody began, lets the rest be answered within the bound. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#draining = true;
    await this.#consumer?.stop();
    await this.#admitted.reached(this.#options.drainTimeoutMs);
    for (const lane of this.#lanes.values()) {
      for (const job of lane.takeUnstarted()) job.delivery.nackNotAttempted();
    }
    await Promise.all([...this.#lanes.values()].map((lane) => lane.idle(this.#options.drainTimeoutMs)));
    await this.#consumer?.close();
  }
}

const requestContext = (envelope: Envelope, remainingMs: number): RequestContext =>
  Object.assign(contextOf(envelope), { messageId: envelope.id, remainingMs });

/** Only direct reply-to: whoever asks must not choose a queue for us to write into. */
function mayReply(delivery: RawDelivery): delivery is RawDelivery & { replyTo: string } {
  return delivery.replyTo?.startsWith("amq.rabbitmq.reply-to.") === true;
}

class Outcomes {
  readonly list: readonly unknown[];
  constructor(list: readonly unknown[]) {
    this.list = list;
  }
}
