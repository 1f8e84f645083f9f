import type { KeyObject } from "node:crypto";
import { MusterError } from "@muster/contracts/errors";
import { fullJitterMs } from "@muster/broker/waiting";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { Alarm } from "../session/alarm.ts";
import type { GatewayDoor, Issued } from "./gateway.ts";

const backoff = { baseMs: 500, maxMs: 30_000 } as const;
const revokedRetryMs = 60_000;
/** A token of so late is not asked for again: then it is the broker that cannot verify it. */
const freshMs = 5_000;
/** Of its life: what is left of a token that may still be logged in with. */
const usableLeft = 0.1;

const refusedText = "revoked, or paired anew elsewhere: stop this agent and pair it with a new code";

interface Held {
  readonly issued: Issued;
  /** By the monotonic clock. */
  readonly gotAtMs: number;
}

export interface TokensOptions {
  readonly agentId: string;
  readonly key: KeyObject;
  readonly door: Pick<GatewayDoor, "tokens">;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** The tokens by which this agent is known to the broker: had when they are needed, renewed at half of their life. */
export class BrokerTokens {
  readonly #o: TokensOptions;
  readonly #alarm = new Alarm();
  readonly #renewals;
  #held: Held | undefined;
  #last: Issued | undefined;
  #flight: Promise<Held> | undefined;
  /** That the gateway would not know us, when it said so last. */
  #refused: { readonly error: MusterError; readonly atMs: number } | undefined;
  #closed = false;
  #onRenewed: (issued: Issued) => Promise<void> = () => Promise.resolve();

  constructor(o: TokensOptions) {
    this.#o = o;
    this.#renewals = o.metrics.counter({
      name: "muster_agent_token_renewals_total",
      help: "Tokens for the broker, asked for with a signed assertion.",
      labels: ["outcome"],
    });
  }

  /** One that is good for a login now. Throws MusterError when none is to be had. */
  async current(): Promise<Issued> {
    const held = this.#held;
    if (held !== undefined && this.#leftOf(held) > usableLeft) return held.issued;
    // Each try to connect comes here: one who was refused asks again in his own time.
    const refused = this.#refused;
    if (refused !== undefined && performance.now() - refused.atMs < revokedRetryMs / 2) throw refused.error;
    return (await this.#renew()).issued;
  }

  /** The broker would not take it: the next login asks for another, and hears whether there is one. */
  distrust(): void {
    const held = this.#held;
    if (held !== undefined && performance.now() - held.gotAtMs > freshMs) this.#held = undefined;
  }

  /** What the last one said; undefined before the first. */
  get last(): Issued | undefined {
    return this.#last;
  }

  health(): { ok: boolean; reason?: string } {
    return this.#refused === undefined ? { ok: true } : { ok: false, reason: refusedText };
  }

  /** From now on each new one is given to `onRenewed`. */
  start(onRenewed: (issued: Issued) => Promise<void>): void {
    this.#onRenewed = onRenewed;
    void this.#keep();
  }

  async #keep(): Promise<void> {
    for (let failures = 0; !this.#closed;) {
      const held = this.#held;
      const left = held === undefined ? 0 : this.#leftOf(held);
      if (held !== undefined && left > 0.5) {
        // A little apart from one another, so that agents that were started together do not come together.
        const untilHalfMs = (left - 0.5) * held.issued.expires_in_seconds * 1_000;
        await this.#alarm.sleep(untilHalfMs * (0.9 + 0.1 * Math.random()) + 10);
        continue;
      }
      try {
        const renewed = await this.#renew();
        failures = 0;
        await this.#onRenewed(renewed.issued);
      } catch (error) {
        if (this.#closed) return;
        const waitMs = fullJitterMs(++failures, backoff.baseMs, backoff.maxMs);
        await this.#alarm.sleep(this.#refused === undefined ? waitMs : revokedRetryMs);
        this.#o.logger.debug({ err: error }, "the broker's token is asked for again");
      }
    }
  }

  #renew(): Promise<Held> {
    this.#flight ??= this.#ask().finally(() => (this.#flight = undefined));
    return this.#flight;
  }

  async #ask(): Promise<Held> {
    const { agentId, key, door, logger } = this.#o;
    // From before it was asked for: a token is never thought to live longer than it does.
    const gotAtMs = performance.now();
    try {
      const issued = await door.tokens(agentId, key);
      this.#refused = undefined;
      this.#renewals.inc({ outcome: "issued" });
      this.#last = issued;
      return (this.#held = { issued, gotAtMs });
    } catch (error) {
      const refused = error instanceof MusterError && error.code === "INVALID_GRANT";
      this.#renewals.inc({ outcome: refused ? "refused" : "failed" });
      if (refused) {
        if (this.#refused === undefined) logger.error({ err: error }, refusedText);
        this.#refused = { error, atMs: performance.now() };
      } else logger.warn({ err: error }, "no token for the broker was to be had; it is asked for again");
      throw error;
    }
  }

  /** Of 1. */
  #leftOf({ issued, gotAtMs }: Held): number {
    return 1 - (performance.now() - gotAtMs) / (issued.expires_in_seconds * 1_000);
  }

  close(): Promise<void> {
    this.#closed = true;
    this.#alarm.ring();
    return Promise.resolve();
  }
}
