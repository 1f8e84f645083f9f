import type {
  EventContract,
  PayloadInputOf,
  PayloadOf,
  ReplyOf,
  ReportContract,
  RequestContract,
  Service,
  Subscription,
} from "@muster/contracts/define";
import type { WorkContext } from "@muster/contracts/envelope";
import type { PreparedMessage, PublishVerdict } from "@muster/contracts/message";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { AmqpBroker } from "./amqp-broker.ts";
import { SupervisedConnection, type ConnectionState } from "./connection.ts";
import type { Consumer, ConsumeOptions, RawDelivery } from "./consume.ts";
import type { Health } from "./health.ts";
import type { Watch } from "./hints.ts";
import { createInstruments } from "./instruments.ts";
import type { VmQueueType } from "./queues.ts";
import type { Publisher } from "./publisher.ts";
import type { Identify, ReportHandlers, RequestHandlers } from "./serve.ts";
import type { ProbeOptions } from "./stuck-queues.ts";
import type { EventHandlers, Runner } from "./subscribe.ts";

export type { ConnectionState } from "./connection.ts";
export type { Consumer, ConsumeOptions, RawDelivery } from "./consume.ts";
export type { Health } from "./health.ts";
export type { Watch } from "./hints.ts";
export type {
  ReportContext,
  ReportHandlers,
  ReportItem,
  RequestContext,
  RequestHandlers,
  RequestItem,
} from "./serve.ts";
export type { EventContext, EventHandlers, EventItem, Runner } from "./subscribe.ts";

export interface BrokerOptions {
  /** A function is asked before every connect: its token may have been renewed. */
  readonly url: string | (() => string | Promise<string>);
  /** What takes the password's place once a login has succeeded: a token that is too long to log in with. */
  readonly secret?: () => string | undefined;
  /** Whether credentials that are refused end the opening at once; by default they do. */
  readonly refusalIsFinal?: boolean;
  /** The broker refused the credentials; asked for new ones, `url` may know better. */
  readonly onRefused?: () => void;
  /** Shown by the broker as the connections' name. */
  readonly name: string;
  readonly service?: Service;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** Needed to serve requests whose identity is "caller". Throws MusterError. */
  readonly identify?: Identify;
  readonly heartbeatSeconds?: number;
  readonly connectTimeoutMs?: number;
  /** How long opening may take while the broker is away. */
  readonly openTimeoutMs?: number;
  readonly drainTimeoutMs?: number;
  readonly vmQueue?: { readonly type: VmQueueType };
  /** Confirms outstanding at once. */
  readonly publishWindowMax?: number;
}

export interface ServeOptions {
  /** Unsettled requests at most. */
  readonly prefetch?: number;
  /** Handlers at once, per contract without a batch. */
  readonly singleConcurrency?: number;
  /** Batches at once, per contract with one. */
  readonly batchConcurrency?: number;
}

export interface Hearing<C extends EventContract> {
  heard(payload: PayloadOf<C>): void;
  /** The connection was lost and is there again, or an event could not be read. */
  missed(): void;
}

export interface Broker {
  /** Confirmed, mandatory, persistent. Never rejects: the verdict tells. */
  publish(message: PreparedMessage, options?: { timeoutMs?: number }): Promise<PublishVerdict>;
  /** Transient and lossy; never throws. */
  hint(exchange: string, routingKey: string, payload: unknown): void;
  /** Throws MusterError. */
  request<C extends RequestContract>(
    contract: C,
    payload: PayloadInputOf<C>,
    context: WorkContext,
    options?: { timeoutMs?: number; signal?: AbortSignal },
  ): Promise<ReplyOf<C>>;
  /** Throws MusterError. */
  report<C extends ReportContract>(
    contract: C,
    payload: PayloadInputOf<C>,
    from: { tenantId: string; agentId: string },
    context: WorkContext,
    options?: { timeoutMs?: number; signal?: AbortSignal },
  ): Promise<ReplyOf<C>>;
  serve<R extends Record<string, RequestContract>>(
    service: Service,
    requests: R,
    handlers: RequestHandlers<R>,
    options?: ServeOptions,
  ): Promise<Consumer>;
  serveReports<R extends Record<string, ReportContract>>(
    queue: string,
    reports: R,
    handlers: ReportHandlers<R>,
    options?: ServeOptions,
  ): Promise<Consumer>;
  subscribe<E extends Record<string, EventContract>, T>(
    subscription: Subscription<E>,
    run: Runner<T>,
    handlers: EventHandlers<E, T>,
  ): Promise<Consumer>;
  consume(
    queue: string,
    options: ConsumeOptions,
    onDelivery: (delivery: RawDelivery) => void,
  ): Promise<Consumer>;
  /**
   * Each event while it is published, in every process that hears, on a queue of the process's own. Nothing is kept for one
   * that is away: `missed` says when there may have been something.
   */
  hear<C extends EventContract>(contract: C, hearing: Hearing<C>): Promise<Watch>;
  watch(exchange: string, onHint: (routingKey: string, payload: unknown) => void): Promise<Watch>;
  /** Idempotent. Throws when a queue of that name has other arguments. */
  ensureVmQueue(name: string): Promise<void>;
  /**
   * Makes those of these VM queues anew that are there and answer nothing; answers which. What was in them is lost:
   * ring again from the database. Takes two probe timeouts and some seconds more when there are any.
   */
  repairVmQueues(names: readonly string[], options?: ProbeOptions): Promise<string[]>;
  deleteQueue(name: string, options?: { ifEmpty?: boolean }): Promise<void>;
  queueExists(name: string): Promise<boolean>;
  /** Renews the token of the living connections. */
  updateSecret(secret: string): Promise<void>;
  health(): Health;
  readonly state: ConnectionState;
  close(): Promise<void>;
}

/**
 * Resolves when connected. Refused credentials or vhosts throw BrokerRefusedError at once;
 * a broker that is away is tried again for `openTimeoutMs`.
 */
export async function openBroker(options: BrokerOptions): Promise<Broker> {
  const instruments = createInstruments(options.metrics);
  const url = options.url;
  const wiring = { publisher: undefined as Publisher | undefined };
  const common = {
    url: typeof url === "string" ? () => url : url,
    secret: options.secret,
    refusalIsFinal: options.refusalIsFinal,
    onRefused: options.onRefused,
    name: options.name,
    heartbeatSeconds: options.heartbeatSeconds ?? 15,
    connectTimeoutMs: options.connectTimeoutMs ?? 10_000,
    logger: options.logger,
    instruments,
    onBlocked: (blocked: boolean) => wiring.publisher?.onBlocked(blocked),
  };
  const openTimeoutMs = options.openTimeoutMs ?? 30_000;
  const publishing = await SupervisedConnection.open({ ...common, role: "publish" }, openTimeoutMs);
  try {
    const consuming = await SupervisedConnection.open({ ...common, role: "consume" }, openTimeoutMs);
    const broker = new AmqpBroker(options, instruments, publishing, consuming);
    wiring.publisher = broker.publisher;
    await broker.ready(common.connectTimeoutMs);
    return broker;
  } catch (error) {
    await publishing.close();
    throw error;
  }
}
