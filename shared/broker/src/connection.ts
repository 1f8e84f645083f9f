import { Duplex } from "node:stream";
import { connect, type Channel, type ChannelModel } from "amqplib";
import type { Logger } from "@muster/telemetry/logger";
import { SupervisedChannel, type ChannelPlan } from "./channel.ts";
import { healthy, unhealthy, type Health } from "./health.ts";
import type { Instruments } from "./instruments.ts";
import { BrokerRefusedError, isFinal, placeOf, refusalOf, type Refusal } from "./refusals.ts";
import { writeTogether } from "./together.ts";
import { attemptAfterLoss, fullJitterMs, TimeoutError, within } from "./waiting.ts";

const reconnectBaseMs = 100;
const reconnectMaxMs = 15_000;

export type ConnectionState = "connected" | "blocked" | "reconnecting" | "closed";

export interface ConnectionOptions {
  /** Asked before every attempt, so that a token in it may be renewed. */
  readonly url: () => string | Promise<string>;
  /**
   * What takes the place of the password as soon as a login has succeeded: the first frames are small, and a token may be long.
   * Asked after every connect.
   */
  readonly secret?: (() => string | undefined) | undefined;
  /** Whether a refused login ends the opening at once; by default it does. */
  readonly refusalIsFinal?: boolean | undefined;
  /** The broker refused what it was given: perhaps that is of no use any more. */
  readonly onRefused?: (() => void) | undefined;
  /** Shown by the broker; `<name>:<role>`. */
  readonly name: string;
  readonly role: "publish" | "consume";
  readonly heartbeatSeconds: number;
  readonly connectTimeoutMs: number;
  readonly logger: Logger;
  readonly instruments: Instruments;
  readonly onBlocked?: (blocked: boolean) => void;
}

/**
 * One connection that comes back: connects with a timeout, keeps its channels, reconnects with full jitter.
 * States: reconnecting → connected ⇄ blocked; any → reconnecting on loss; any → closed by `close`.
 */
export class SupervisedConnection {
  readonly #options: ConnectionOptions;
  readonly #logger: Logger;
  readonly #channels = new Set<SupervisedChannel<never> | SupervisedChannel>();
  #model: ChannelModel | undefined;
  #user = "";
  #state: ConnectionState = "reconnecting";
  #reason = "not connected yet";
  #attempt = 0;
  #upSinceMs = 0;
  #timer: NodeJS.Timeout | undefined;

  private constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#logger = options.logger.child({ connection: options.role });
  }

  /**
   * Resolves when connected. Tries for `openTimeoutMs`; refused credentials or vhosts throw
   * BrokerRefusedError at once, since trying again cannot help.
   */
  static async open(options: ConnectionOptions, openTimeoutMs: number): Promise<SupervisedConnection> {
    const connection = new SupervisedConnection(options);
    const untilMs = performance.now() + openTimeoutMs;
    for (;;) {
      const failure = await connection.#tryConnect();
      if (failure === undefined) return connection;
      const delayMs = fullJitterMs(connection.#attempt, reconnectBaseMs, reconnectMaxMs);
      const ends = options.refusalIsFinal !== false && isFinal(failure.refusal);
      if (ends || performance.now() + delayMs > untilMs) {
        connection.#state = "closed";
        throw new BrokerRefusedError(failure.refusal, failure.cause);
      }
      await new Promise((resolve) => setTimeout(resolve, delayMs));
    }
  }

  get state(): ConnectionState {
    return this.#state;
  }

  /** Who we are at the broker: it takes no other `user_id` on what we publish. */
  get user(): string {
    return this.#user;
  }

  get model(): ChannelModel | undefined {
    return this.#model;
  }

  health(): Health {
    return this.#state === "connected" ? healthy() : unhealthy(this.#reason);
  }

  /** A channel kept open for as long as the connection is wanted. */
  keepChannel<C extends Channel>(plan: ChannelPlan<C>): SupervisedChannel<C> {
    const channel = new SupervisedChannel<C>(this, plan, this.#logger);
    this.#channels.add(channel);
    if (this.#model !== undefined) channel.connectionUp(this.#model);
    return channel;
  }

  forget(channel: { readonly epoch: number }): void {
    for (const kept of this.#channels) if (kept === channel) this.#channels.delete(kept);
  }

  /** A channel for one piece of work that the broker may answer by closing it. */
  async withChannel<T>(work: (channel: Channel) => Promise<T>, timeoutMs = 10_000): Promise<T> {
    const model = this.#model;
    if (model === undefined) throw new Error(`not connected to the broker: ${this.#reason}`);
    const channel = await within(model.createChannel(), timeoutMs, "opening a channel");
    channel.on("error", () => {});
    try {
      return await within(work(channel), timeoutMs, "an operation on the broker");
    } finally {
      void Promise.resolve()
        .then(() => channel.close())
        .catch(() => {});
    }
  }

  async #tryConnect(): Promise<{ refusal: Refusal; cause: unknown } | undefined> {
    let where = "?";
    try {
      const { connectTimeoutMs } = this.#options;
      const url = await within(Promise.resolve(this.#options.url()), connectTimeoutMs, "getting credentials");
      where = placeOf(url);
      const model = await this.#connectTo(url);
      this.#user = userOf(url);
      this.#adopt(model);
      return undefined;
    } catch (cause) {
      const refusal = refusalOf(cause, where);
      this.#attempt += 1;
      this.#reason = refusal.message;
      if (isFinal(refusal)) this.#options.onRefused?.();
      return { refusal, cause };
    }
  }

  async #connectTo(url: string): Promise<ChannelModel> {
    const { connectTimeoutMs, heartbeatSeconds, name, role } = this.#options;
    const tuned = new URL(url);
    tuned.searchParams.set("heartbeat", String(heartbeatSeconds));
    const connecting = connect(tuned.href, {
      timeout: connectTimeoutMs,
      noDelay: true,
      keepAlive: true,
      keepAliveDelay: 10_000,
      clientProperties: { connection_name: `${name}:${role}` },
    }).then((model) => {
      // before any await: a connection without an error listener takes the process down
      model.on("error", () => {});
      const socket = socketOf(model);
      if (socket !== undefined) writeTogether(socket);
      return model;
    });
    const whole = connecting.then(async (model) => {
      const secret = this.#options.secret?.();
      if (secret !== undefined) await model.updateSecret(Buffer.from(secret), "logged in");
      return model;
    });
    try {
      return await within(whole, connectTimeoutMs + 1_000, "the AMQP handshake");
    } catch (error) {
      if (!(error instanceof TimeoutError)) connecting.then(destroySocket, () => {});
      if (error instanceof TimeoutError) connecting.then(destroySocket, () => {});
      throw error;
    }
  }

  #adopt(model: ChannelModel): void {
    if (this.#state === "closed") {
      destroySocket(model);
      return;
    }
    let cause: Error | undefined;
    model.on("error", (error) => {
      cause = error;
    });
    model.on("close", (error) => this.abandon(model, (error ?? cause)?.message ?? "closed by the broker"));
    model.on("blocked", (reason) => this.#setBlocked(model, reason));
    model.on("unblocked", () => this.#setBlocked(model, undefined));
    if (this.#upSinceMs > 0) this.#options.instruments.reconnects.inc({ connection: this.#options.role });
    this.#model = model;
    this.#state = "connected";
    this.#upSinceMs = performance.now();
    this.#options.instruments.connectionUp.set({ connection: this.#options.role }, 1);
    this.#logger.info("connected to the broker");
    for (const channel of this.#channels) channel.connectionUp(model);
  }

  #setBlocked(model: ChannelModel, reason: string | undefined): void {
    if (model !== this.#model || this.#state === "closed") return;
    this.#state = reason === undefined ? "connected" : "blocked";
    this.#reason = `the broker has blocked publishing: ${reason ?? ""}`;
    if (this.#options.role === "publish") this.#options.instruments.blocked.set(reason === undefined ? 0 : 1);
    this.#logger.warn({ reason }, reason === undefined ? "broker unblocked" : "broker blocked");
    this.#options.onBlocked?.(reason !== undefined);
  }

  /** The connection is of no use any more: lets its channels know and connects anew. */
  abandon(model: ChannelModel, reason: string): void {
    if (model !== this.#model) return;
    this.#model = undefined;
    destroySocket(model);
    if (this.#options.role === "publish") this.#options.instruments.blocked.set(0);
    this.#options.instruments.connectionUp.set({ connection: this.#options.role }, 0);
    const wasBlocked = this.#state === "blocked";
    if (this.#state !== "closed") {
      this.#state = "reconnecting";
      this.#reason = `connection lost: ${reason}`;
      this.#logger.warn({ reason }, "connection to the broker lost");
      this.#attempt = attemptAfterLoss(this.#attempt, performance.now() - this.#upSinceMs);
    }
    if (wasBlocked) this.#options.onBlocked?.(false);
    for (const channel of this.#channels) channel.connectionLost(reason);
    this.#reconnectLater();
  }

  #reconnectLater(): void {
    clearTimeout(this.#timer);
    if (this.#state === "closed") return;
    this.#timer = setTimeout(
      () => void this.#reconnect(),
      fullJitterMs(this.#attempt, reconnectBaseMs, reconnectMaxMs),
    );
  }

  async #reconnect(): Promise<void> {
    const failure = await this.#tryConnect();
    if (failure === undefined) return;
    const log = { reason: failure.refusal.message, attempt: this.#attempt };
    if (isFinal(failure.refusal)) this.#logger.error(log, "the broker refuses us");
    else this.#logger.warn(log, "cannot reach the broker");
    this.#reconnectLater();
  }

  /** Replaces the secret (an OAuth 2 token) of the living connection; a refused one closes it. */
  async updateSecret(secret: string, timeoutMs = 5_000): Promise<void> {
    const model = this.#model;
    if (model === undefined) return;
    let onClose = (): void => {};
    const closed = new Promise<never>((_, reject) => {
      onClose = () => reject(new Error("the broker refused the new secret and closed the connection"));
    });
    model.once("close", onClose);
    const updated = model.updateSecret(Buffer.from(secret), "renewed");
    await within(Promise.race([updated, closed]), timeoutMs, "renewing the secret").finally(() =>
      model.removeListener("close", onClose),
    );
  }

  /** Idempotent; within `timeoutMs` even when the broker does not answer. */
  async close(timeoutMs = 5_000): Promise<void> {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#reason = "closed";
    clearTimeout(this.#timer);
    const model = this.#model;
    if (model !== undefined) {
      await within(
        Promise.resolve().then(() => model.close()),
        timeoutMs,
        "closing the connection",
      ).catch(() => {});
      this.abandon(model, "closed");
    }
  }
}

/** As amqplib logs in. */
function userOf(url: string): string {
  const { username, password } = new URL(url);
  return username === "" && password === "" ? "guest" : decodeURIComponent(username);
}

/** amqplib ends a lost socket politely; one whose peer is gone would linger. */
function destroySocket(model: ChannelModel): void {
  socketOf(model)?.destroy();
}

/** amqplib keeps its socket to itself; its types lack it. */
function socketOf(model: ChannelModel): Duplex | undefined {
  const stream: unknown = Reflect.get(model.connection, "stream");
  return stream instanceof Duplex ? stream : undefined;
}
