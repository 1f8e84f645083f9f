import type { Channel, ChannelModel } from "amqplib";
import type { Logger } from "@muster/telemetry/logger";
import type { SupervisedConnection } from "./connection.ts";
import { healthy, unhealthy, type Health } from "./health.ts";
import { attemptAfterLoss, fullJitterMs, within } from "./waiting.ts";

const setupTimeoutMs = 10_000;
const reopenBaseMs = 100;
const reopenMaxMs = 10_000;

export interface ChannelPlan<C extends Channel> {
  readonly name: string;
  open(model: ChannelModel): Promise<C>;
  /** Runs on each new channel before it counts as open; when it throws, the channel is tried again later. */
  setup(channel: C, epoch: number): Promise<void>;
  /** The channel of this epoch is gone: nothing that was sent on it will be answered. */
  lost(reason: string, epoch: number): void;
}

/** A channel that is there whenever its connection is: re-created when it dies alone or with its connection. */
export class SupervisedChannel<C extends Channel = Channel> {
  readonly #connection: SupervisedConnection;
  readonly #plan: ChannelPlan<C>;
  readonly #logger: Logger;
  #current: C | undefined;
  #ready = false;
  #epoch = 0;
  #attempt = 0;
  #readySinceMs = 0;
  #reason = "not opened yet";
  #timer: NodeJS.Timeout | undefined;
  #closed = false;
  #waiters: (() => void)[] = [];

  constructor(connection: SupervisedConnection, plan: ChannelPlan<C>, logger: Logger) {
    this.#connection = connection;
    this.#plan = plan;
    this.#logger = logger;
  }

  /** The channel when it is open and set up. */
  get channel(): C | undefined {
    return this.#ready ? this.#current : undefined;
  }

  get epoch(): number {
    return this.#epoch;
  }

  health(): Health {
    return this.#ready ? healthy() : unhealthy(this.#reason);
  }

  /** Resolves with the first outcome of opening, good or bad, or after `timeoutMs`; then see `channel`. */
  async firstOutcome(timeoutMs: number): Promise<void> {
    if (this.#ready || this.#closed || this.#attempt > 0) return;
    await this.#wait(timeoutMs);
  }

  /** The channel, waiting up to `timeoutMs` for it. */
  async whenOpen(timeoutMs: number): Promise<C | undefined> {
    const untilMs = performance.now() + timeoutMs;
    while (!this.#ready && !this.#closed) {
      const leftMs = untilMs - performance.now();
      if (leftMs <= 0) break;
      await this.#wait(leftMs);
    }
    return this.channel;
  }

  #wait(timeoutMs: number): Promise<void> {
    const woken = new Promise<void>((resolve) => this.#waiters.push(resolve));
    return within(woken, timeoutMs, "waiting").catch(() => {});
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }

  connectionUp(model: ChannelModel): void {
    clearTimeout(this.#timer);
    void this.#open(model);
  }

  connectionLost(reason: string): void {
    clearTimeout(this.#timer);
    this.#lose(this.#epoch, `connection lost: ${reason}`);
  }

  /** Gives up the present channel and opens another after the backoff. */
  reopen(reason: string): void {
    const dying = this.#current;
    this.#lose(this.#epoch, reason);
    this.#attempt += 1;
    void Promise.resolve()
      .then(() => dying?.close())
      .catch(() => {});
    this.#openLater();
  }

  async #open(model: ChannelModel): Promise<void> {
    if (this.#closed) return;
    const epoch = ++this.#epoch;
    // amqplib throws at once when the connection is gone
    const opening = Promise.resolve().then(() => this.#plan.open(model));
    try {
      const channel = await within(opening, setupTimeoutMs, `opening channel ${this.#plan.name}`);
      if (epoch !== this.#epoch) return void channel.close().catch(() => {});
      this.#listen(channel, epoch);
      this.#current = channel;
      await within(this.#plan.setup(channel, epoch), setupTimeoutMs, `setting up channel ${this.#plan.name}`);
      if (epoch !== this.#epoch || this.#current !== channel) return;
      this.#ready = true;
      this.#readySinceMs = performance.now();
      this.#wake();
    } catch (error) {
      opening.then((late) => late.close()).catch(() => {});
      this.#openFailed(model, epoch, error);
    }
  }

  #listen(channel: C, epoch: number): void {
    let cause: Error | undefined;
    channel.on("error", (error) => {
      cause = error;
    });
    channel.on("close", () => {
      if (this.#lose(epoch, cause?.message ?? "channel closed")) this.#openLater();
    });
  }

  #openFailed(model: ChannelModel, epoch: number, error: unknown): void {
    const message = error instanceof Error ? error.message : String(error);
    // amqplib may lose a connection without telling the model; then no channel of it will ever open
    if (error instanceof Error && error.name === "IllegalOperationError") {
      this.#connection.abandon(model, message);
    }
    this.#attempt += 1;
    if (this.#lose(epoch, message)) this.#openLater();
  }

  /** Once per epoch; true when this call was the one. */
  #lose(epoch: number, reason: string): boolean {
    if (epoch !== this.#epoch) return false;
    this.#reason = reason;
    this.#epoch += 1;
    if (this.#ready) {
      this.#attempt = attemptAfterLoss(this.#attempt, performance.now() - this.#readySinceMs);
    }
    this.#ready = false;
    this.#current = undefined;
    // losing the connection is told once, there
    const alone = !this.#closed && this.#connection.model !== undefined;
    if (alone) this.#logger.warn({ channel: this.#plan.name, reason }, "channel lost");
    this.#plan.lost(reason, epoch);
    this.#wake();
    return true;
  }

  #openLater(): void {
    clearTimeout(this.#timer);
    if (this.#closed) return;
    const delayMs = fullJitterMs(this.#attempt, reopenBaseMs, reopenMaxMs);
    this.#timer = setTimeout(() => {
      const model = this.#connection.model;
      if (model !== undefined) void this.#open(model);
    }, delayMs);
  }

  /** Idempotent; what was sent is gone with the channel. */
  async close(timeoutMs = 5_000): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#reason = "closed";
    clearTimeout(this.#timer);
    this.#connection.forget(this);
    const channel = this.#current;
    if (channel !== undefined) {
      await within(
        Promise.resolve().then(() => channel.close()),
        timeoutMs,
        "closing a channel",
      ).catch(() => {});
    }
    this.#lose(this.#epoch, "closed");
    this.#wake();
  }
}
