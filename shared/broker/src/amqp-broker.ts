import type {
  DoorbellContract,
  EventContract,
  PayloadInputOf,
  PayloadOf,
  ReplyOf,
  ReportContract,
  RequestContract,
  Service,
  Subscription,
} from "@muster/contracts/define";
import { cloudEventsContentType, type WorkContext } from "@muster/contracts/envelope";
import { MusterError } from "@muster/contracts/errors";
import type { PreparedMessage, PublishVerdict } from "@muster/contracts/message";
import { mayRing, mayTell } from "@muster/contracts/senders";
import {
  agentsExchange,
  eventsExchange,
  reportRoutingKey,
  requestsExchange,
  requestsQueue,
  subscriptionQueue,
} from "@muster/contracts/topology";
import type { Broker, BrokerOptions, Hearing, ServeOptions } from "./broker.ts";
import type { ConnectionState, SupervisedConnection } from "./connection.ts";
import { QueueConsumer, type Consumer, type ConsumeOptions, type RawDelivery } from "./consume.ts";
import { combined, unhealthy, type Health } from "./health.ts";
import { HintWatch, TransientPublisher, type Watch, type WatchOptions } from "./hints.ts";
import { queueLabel, type Instruments } from "./instruments.ts";
import { prepareRequest } from "./prepare.ts";
import { Publisher } from "./publisher.ts";
import { deleteQueue, ensureVmQueue, queueExists } from "./queues.ts";
import { readEvent } from "./read-envelope.ts";
import { Requester } from "./requests.ts";
import { SenderCheck } from "./sender-check.ts";
import {
  requestRoutes,
  RequestServer,
  type ReportHandlers,
  type RequestHandlers,
  type ServerOptions,
} from "./serve.ts";
import { deleteStuck, stuckQueues, type ProbeOptions } from "./stuck-queues.ts";
import { Subscriber, type EventHandlers, type Runner } from "./subscribe.ts";

/** Wires the parts of one process together over its two connections. */
export class AmqpBroker implements Broker {
  readonly publisher: Publisher;
  readonly #options: BrokerOptions;
  readonly #instruments: Instruments;
  readonly #senders: SenderCheck;
  readonly #publishing: SupervisedConnection;
  readonly #consuming: SupervisedConnection;
  /** A queue that answers nothing holds up the channel that asks it: each owner is asked on one of its own. */
  readonly #requesters = new Map<Service, Requester>();
  readonly #hints: TransientPublisher;
  readonly #replies: TransientPublisher;
  readonly #consumers = new Set<Consumer>();
  readonly #watches = new Set<HintWatch>();
  readonly #drainTimeoutMs: number;
  #closing: Promise<void> | undefined;

  constructor(
    options: BrokerOptions,
    instruments: Instruments,
    publishing: SupervisedConnection,
    consuming: SupervisedConnection,
  ) {
    const { logger, publishWindowMax } = options;
    this.#options = options;
    this.#instruments = instruments;
    this.#senders = new SenderCheck(logger, instruments);
    this.#publishing = publishing;
    this.#consuming = consuming;
    this.#drainTimeoutMs = options.drainTimeoutMs ?? 10_000;
    this.publisher = new Publisher({
      connection: publishing,
      logger,
      instruments,
      ...(publishWindowMax === undefined ? {} : { windowMax: publishWindowMax }),
    });
    this.#hints = new TransientPublisher(publishing, "hints", logger, instruments);
    this.#replies = new TransientPublisher(publishing, "replies", logger, instruments);
  }

  async ready(timeoutMs: number): Promise<void> {
    await this.publisher.whenOpen(timeoutMs);
  }

  publish(message: PreparedMessage, options?: { timeoutMs?: number }): Promise<PublishVerdict> {
    return this.publisher.publish(message, options?.timeoutMs);
  }

  hint(exchange: string, routingKey: string, payload: unknown): void {
    const body = payload === undefined ? "" : JSON.stringify(payload);
    this.#hints.send(exchange, routingKey, body, { contentType: "application/json" });
  }

  async request<C extends RequestContract>(
    contract: C,
    payload: PayloadInputOf<C>,
    context: WorkContext,
    options: { timeoutMs?: number; signal?: AbortSignal } = {},
  ): Promise<ReplyOf<C>> {
    const timeoutMs = options.timeoutMs ?? contract.timeoutMs;
    const message = prepareRequest(contract, payload, {
      context,
      source: `/muster/${this.#options.service ?? this.#options.name}`,
      exchange: requestsExchange,
      routingKey: contract.name,
      timeoutMs,
    });
    return this.#requesterTo(contract.owner).ask(contract, message, timeoutMs, options.signal);
  }

  async report<C extends ReportContract>(
    contract: C,
    payload: PayloadInputOf<C>,
    from: { tenantId: string; agentId: string },
    context: WorkContext,
    options: { timeoutMs?: number; signal?: AbortSignal } = {},
  ): Promise<ReplyOf<C>> {
    const timeoutMs = options.timeoutMs ?? contract.timeoutMs;
    const message = prepareRequest(contract, payload, {
      context,
      source: `/muster/agents/${from.tenantId}/${from.agentId}`,
      exchange: agentsExchange,
      routingKey: reportRoutingKey(from.tenantId, from.agentId, contract.report),
      timeoutMs,
      tenantId: from.tenantId,
    });
    return this.#requesterTo(contract.owner).ask(contract, message, timeoutMs, options.signal);
  }

  #requesterTo(owner: Service): Requester {
    const known = this.#requesters.get(owner);
    if (known !== undefined) return known;
    this.#refuseWhenClosing();
    const opened = new Requester({
      connection: this.#publishing,
      instruments: this.#instruments,
      senders: this.#senders,
      owner,
    });
    this.#requesters.set(owner, opened);
    return opened;
  }

  serve<R extends Record<string, RequestContract>>(
    service: Service,
    requests: R,
    handlers: RequestHandlers<R>,
    options: ServeOptions = {},
  ): Promise<Consumer> {
    return this.#serve(options, { queue: requestsQueue(service), routes: requestRoutes(requests, handlers) });
  }

  serveReports<R extends Record<string, ReportContract>>(
    queue: string,
    reports: R,
    handlers: ReportHandlers<R>,
    options: ServeOptions = {},
  ): Promise<Consumer> {
    return this.#serve(options, { queue, routes: requestRoutes(reports, handlers), sender: senderOf });
  }

  #serve(options: ServeOptions, what: Pick<ServerOptions, "queue" | "routes" | "sender">): Promise<Consumer> {
    const server = new RequestServer({
      ...what,
      source: `/muster/${this.#options.service ?? this.#options.name}`,
      identify: this.#options.identify,
      senders: this.#senders,
      reply: (to, correlationId, body) =>
        this.#replies.send("", to, body, { correlationId, contentType: cloudEventsContentType }),
      logger: this.#options.logger,
      instruments: this.#instruments,
      singleConcurrency: options.singleConcurrency ?? 32,
      batchConcurrency: options.batchConcurrency ?? 2,
      drainTimeoutMs: this.#drainTimeoutMs,
    });
    return this.#start(server, options.prefetch ?? 250);
  }

  subscribe<E extends Record<string, EventContract>, T>(
    subscription: Subscription<E>,
    run: Runner<T>,
    handlers: EventHandlers<E, T>,
  ): Promise<Consumer> {
    const subscriber = new Subscriber<T>({
      subscription,
      queue: subscriptionQueue(subscription),
      run,
      handlers,
      senders: this.#senders,
      publish: (message) => this.publish(message),
      logger: this.#options.logger,
      instruments: this.#instruments,
      drainTimeoutMs: this.#drainTimeoutMs,
    });
    return this.#start(subscriber, subscription.prefetch);
  }

  async #start<
    C extends Consumer & { onDelivery(delivery: RawDelivery): void; attach(consumer: QueueConsumer): void },
  >(layer: C, prefetch: number): Promise<Consumer> {
    this.#refuseWhenClosing();
    const onDelivery = (delivery: RawDelivery): void => layer.onDelivery(delivery);
    const options = { prefetch, drainTimeoutMs: this.#drainTimeoutMs };
    layer.attach(await QueueConsumer.open(this.#parts(), layer.queue, options, onDelivery));
    return this.#keep(layer);
  }

  async consume(
    queue: string,
    options: ConsumeOptions,
    onDelivery: (delivery: RawDelivery) => void,
  ): Promise<Consumer> {
    this.#refuseWhenClosing();
    const bounded = { drainTimeoutMs: this.#drainTimeoutMs, ...options };
    const taken = options.doorbell === undefined ? onDelivery : this.#rungBy(options.doorbell, onDelivery);
    return this.#keep(await QueueConsumer.open(this.#parts(), queue, bounded, taken));
  }

  #rungBy(contract: DoorbellContract, onDelivery: (delivery: RawDelivery) => void) {
    return (delivery: RawDelivery): void => {
      if (this.#senders.believes(contract, delivery, (sender) => mayRing(contract, sender)))
        onDelivery(delivery);
      else delivery.reject(false);
    };
  }

  #parts() {
    return { connection: this.#consuming, logger: this.#options.logger, instruments: this.#instruments };
  }

  #refuseWhenClosing(): void {
    if (this.#closing !== undefined) throw new MusterError("DRAINING");
  }

  /** Known until closed, so that health tells of it and closing the broker closes it. */
  #keep(consumer: Consumer): Consumer {
    const kept: Consumer = {
      queue: consumer.queue,
      health: () => consumer.health(),
      close: () => {
        this.#consumers.delete(kept);
        return consumer.close();
      },
    };
    this.#consumers.add(kept);
    return kept;
  }

  watch(exchange: string, onHint: (routingKey: string, payload: unknown) => void): Promise<Watch> {
    return this.#watch({
      exchange,
      onMessage: ({ routingKey, body }) =>
        onHint(routingKey, body.length === 0 ? undefined : (JSON.parse(body.toString("utf8")) as unknown)),
    });
  }

  async hear<C extends EventContract>(contract: C, hearing: Hearing<C>): Promise<Watch> {
    const { logger } = this.#options;
    const watch = await this.#watch({
      exchange: eventsExchange(contract.owner),
      onMessage: (message) => {
        let payload: PayloadOf<C>;
        try {
          this.#senders.refuseForged(contract, message, (sender) => mayTell(contract, sender));
          payload = readEvent(contract, message);
        } catch (error) {
          logger.warn({ err: error, type: contract.name }, "an event could not be read");
          hearing.missed();
          return;
        }
        hearing.heard(payload);
      },
      onReopened: () => hearing.missed(),
    });
    await watch.bind(contract.name);
    return watch;
  }

  async #watch(o: WatchOptions): Promise<Watch> {
    this.#refuseWhenClosing();
    const watch = new HintWatch(this.#consuming, this.#options.logger, o);
    this.#watches.add(watch);
    await watch.whenOpen(this.#options.connectTimeoutMs ?? 10_000);
    return {
      bind: (key) => watch.bind(key),
      unbind: (key) => watch.unbind(key),
      close: () => {
        this.#watches.delete(watch);
        return watch.close();
      },
    };
  }

  ensureVmQueue(name: string): Promise<void> {
    return ensureVmQueue(this.#publishing, name, this.#options.vmQueue?.type ?? "quorum");
  }

  async repairVmQueues(names: readonly string[], options?: ProbeOptions): Promise<string[]> {
    if (names.length === 0 || this.#options.vmQueue?.type === "classic") return [];
    const { url, logger } = this.#options;
    const amqpUrl = typeof url === "string" ? url : await url();
    const stuck = await stuckQueues(amqpUrl, names, options);
    if (stuck.length === 0) return [];
    await deleteStuck(amqpUrl, stuck);
    for (const queue of stuck) {
      await this.ensureVmQueue(queue);
      this.#instruments.queueRepairs.inc({ queue: queueLabel(queue) });
      logger.error({ event: "queue_repaired", queue }, "a queue answered nothing any more; it was made anew");
    }
    return stuck;
  }

  deleteQueue(name: string, options?: { ifEmpty?: boolean }): Promise<void> {
    return deleteQueue(this.#publishing, name, options?.ifEmpty ?? false);
  }

  queueExists(name: string): Promise<boolean> {
    return queueExists(this.#publishing, name);
  }

  async updateSecret(secret: string): Promise<void> {
    await Promise.all([this.#publishing.updateSecret(secret), this.#consuming.updateSecret(secret)]);
  }

  get state(): ConnectionState {
    if (this.#closing !== undefined) return "closed";
    const states = [this.#publishing.state, this.#consuming.state];
    return (
      (["closed", "reconnecting", "blocked"] as const).find((state) => states.includes(state)) ?? "connected"
    );
  }

  health(): Health {
    if (this.#closing !== undefined) return unhealthy("closed");
    const parts: Record<string, Health> = {
      "publish connection": this.#publishing.health(),
      "consume connection": this.#consuming.health(),
    };
    if (this.state === "connected") {
      parts["publisher"] = this.publisher.health();
      for (const [owner, requester] of this.#requesters) parts[`requests to ${owner}`] = requester.health();
    }
    for (const consumer of this.#consumers) parts[`consumer ${consumer.queue}`] = consumer.health();
    for (const watch of this.#watches) {
      const name = `watch ${watch.exchange}`;
      // Several may watch one exchange: the one that is ill is told of.
      if (parts[name]?.ok !== false) parts[name] = watch.health();
    }
    return combined(parts);
  }

  /** Consumers first, then what is unconfirmed, then the connections; each within its bound. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await Promise.all([...this.#consumers].map((consumer) => consumer.close()));
    await Promise.all([...this.#watches].map((watch) => watch.close()));
    await Promise.all([
      ...[...this.#requesters.values()].map((requester) => requester.close()),
      this.publisher.close(),
      this.#hints.close(),
      this.#replies.close(),
    ]);
    await Promise.all([this.#publishing.close(), this.#consuming.close()]);
  }
}

/** The broker has authorised the routing key; what came another way proves nothing. */
function senderOf(delivery: RawDelivery, contract: ReportContract): { tenantId: string; agentId: string } {
  const [agents, tenantId, agentId, report, more] = delivery.routingKey.split(".");
  const fits = agents === "agents" && report === contract.report && more === undefined;
  if (delivery.exchange !== agentsExchange || !fits || !tenantId || !agentId) {
    throw new MusterError("FORBIDDEN", `${contract.name} does not come by ${delivery.routingKey}`);
  }
  return { tenantId, agentId };
}
