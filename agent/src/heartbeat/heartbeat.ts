import { loadavg } from "node:os";
import { agentHeartbeat } from "@muster/contracts/agents";
import type { PayloadOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { fullJitterMs } from "@muster/broker/waiting";
import type { Logger } from "@muster/telemetry/logger";
import { Alarm } from "../session/alarm.ts";
import type { SessionRef } from "../session/session.ts";
import type { Transport } from "../transport/transport.ts";

type Facts = Omit<PayloadOf<typeof agentHeartbeat>, "session" | "load_1m" | "clock_unix_ms">;

const firstMs = 15_000;
const backoff = { baseMs: 1_000, maxMs: 30_000 } as const;

/** Says that the agent lives, at the interval that the mesh asks for; quarantined or not. */
export class Heartbeat {
  readonly #transport: Transport;
  readonly #logger: Logger;
  readonly #session: () => SessionRef | undefined;
  readonly #facts: () => Facts;
  readonly #onOutdated: (generation: number) => void;
  readonly #alarm = new Alarm();
  #intervalMs = firstMs;
  #closed = false;

  constructor(o: {
    transport: Transport;
    logger: Logger;
    session: () => SessionRef | undefined;
    facts: () => Facts;
    /** A newer session of this agent than the one of this generation is known. */
    onOutdated: (generation: number) => void;
  }) {
    this.#transport = o.transport;
    this.#logger = o.logger;
    this.#session = o.session;
    this.#facts = o.facts;
    this.#onOutdated = o.onOutdated;
  }

  start(): void {
    void this.#beat();
  }

  /** Sends one now, such as at the first hello or when the journal's state has changed. */
  now(): void {
    this.#alarm.ring();
  }

  /** A session is open: beats now, and then as often as the mesh asks. */
  greeted(intervalMs: number): void {
    if (intervalMs > 0) this.#intervalMs = intervalMs;
    this.#alarm.ring();
  }

  async #beat(): Promise<void> {
    for (let failures = 0; !this.#closed;) {
      let waitMs = this.#intervalMs;
      try {
        await this.send();
        failures = 0;
        waitMs = this.#intervalMs * (0.9 + 0.2 * Math.random());
      } catch (error) {
        this.#logger.debug({ err: error }, "a heartbeat was not answered");
        waitMs = Math.min(this.#intervalMs, fullJitterMs(++failures, backoff.baseMs, backoff.maxMs) + 250);
      }
      await this.#alarm.sleep(waitMs);
    }
  }

  /** One heartbeat, if there is a session to name; throws when it is not answered. */
  async send(): Promise<void> {
    const session = this.#session();
    if (session === undefined) return;
    const facts = { ...this.#facts(), load_1m: loadavg()[0] ?? 0, clock_unix_ms: Date.now() };
    const reply = await this.#transport
      .report(agentHeartbeat, { ...facts, session })
      .catch((error: unknown) => {
        if (error instanceof MusterError && error.code === "AGENT_SUPERSEDED")
          this.#onOutdated(session.generation);
        throw error;
      });
    if (reply.next_heartbeat_ms > 0) this.#intervalMs = reply.next_heartbeat_ms;
  }

  close(): Promise<void> {
    this.#closed = true;
    this.#alarm.ring();
    return Promise.resolve();
  }
}
