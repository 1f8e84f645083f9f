import { agentHello } from "@muster/contracts/agents";
import type { PayloadInputOf, PayloadOf, ReplyOf, ReportContract } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { fullJitterMs } from "@muster/broker/waiting";
import type { Logger } from "@muster/telemetry/logger";
import type { Journal } from "../journal/journal.ts";
import type { Transport } from "../transport/transport.ts";
import { Alarm } from "./alarm.ts";

export type Greeting = ReplyOf<typeof agentHello>;
type HelloFacts = Omit<
  PayloadOf<typeof agentHello>,
  "session_id" | "journal_id" | "journal_seq" | "last_generation"
>;

/** Named in every claim and report: the newest accepted generation wins. */
export interface SessionRef {
  readonly generation: number;
  readonly session_id: string;
}

const quarantineRetryMs = 60_000;
const unknownVmRetryMs = 60_000;
/** Asks again for what waits, in case a doorbell was lost. */
const refreshMs = 300_000;
const backoff = { baseMs: 500, maxMs: 30_000 } as const;

export class SessionClosed extends Error {
  override readonly name = "SessionClosed";
}

type State = "opening" | "open" | "quarantined" | "revoked" | "superseded" | "closed";

function isBarred(error: unknown, code: "AGENT_QUARANTINED" | "AGENT_REVOKED"): boolean {
  return error instanceof MusterError && error.code === code;
}

/** This process's session with the mesh: opened by hello, renewed after interruptions, ended by a newer one. */
export class Session {
  readonly id = uuidv7();
  readonly #transport: Transport;
  readonly #journal: Journal;
  readonly #logger: Logger;
  readonly #facts: () => HelloFacts;
  readonly #onGreeting: (greeting: Greeting) => void;
  readonly #onSuperseded: () => void;
  readonly #alarm = new Alarm();
  readonly #stop = new AbortController();
  #waiters: { resolve(ref: SessionRef): void; reject(error: Error): void }[] = [];
  #state: State = "opening";
  #generation = 0;
  #greeting = false;

  constructor(o: {
    transport: Transport;
    journal: Journal;
    logger: Logger;
    facts: () => HelloFacts;
    onGreeting: (greeting: Greeting) => void;
    onSuperseded: () => void;
  }) {
    this.#transport = o.transport;
    this.#journal = o.journal;
    this.#logger = o.logger;
    this.#facts = o.facts;
    this.#onGreeting = o.onGreeting;
    this.#onSuperseded = o.onSuperseded;
    o.transport.onRestored(() => this.refresh());
  }

  get state(): State {
    return this.#state;
  }

  get current(): SessionRef | undefined {
    return this.#generation === 0 ? undefined : { generation: this.#generation, session_id: this.id };
  }

  start(): void {
    void this.#keepOpen();
  }

  /** Says hello again now. */
  refresh(): void {
    this.#alarm.ring();
  }

  async #keepOpen(): Promise<void> {
    for (let failures = 0; !this.#stop.signal.aborted && this.#state !== "superseded";) {
      let waitMs: number;
      try {
        const known = await this.#greet();
        failures = 0;
        waitMs = (known ? refreshMs : unknownVmRetryMs) * (0.8 + 0.4 * Math.random());
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        const quarantined = isBarred(error, "AGENT_QUARANTINED");
        if (quarantined) this.#bar("quarantined", error);
        // The mesh hears of a pairing a moment after it was made: that is asked again soon, like whatever fails.
        else if (isBarred(error, "AGENT_REVOKED")) this.#bar("revoked", error);
        else this.#logger.warn({ err: error }, "hello was not answered; will be sent again");
        waitMs = quarantined ? quarantineRetryMs : fullJitterMs(++failures, backoff.baseMs, backoff.maxMs);
      }
      await this.#alarm.sleep(waitMs);
    }
  }

  /** True when every VM of this agent is known to the mesh. */
  async #greet(): Promise<boolean> {
    await this.#journal.whenWritable(this.#stop.signal);
    const facts = this.#facts();
    this.#greeting = true;
    try {
      const greeting = await this.#transport.report(agentHello, {
        ...facts,
        session_id: this.id,
        journal_id: this.#journal.id,
        journal_seq: this.#journal.head,
        last_generation: this.#journal.lastGeneration,
      });
      // On disk before it is used: a journal that forgot it would look like a clone.
      await this.#journal.write({ kind: "session", generation: greeting.generation });
      this.#generation = greeting.generation;
      this.#greeting = false;
      this.#setOpen(greeting);
      const missing = facts.vm_uuids.filter((vm) => !greeting.vms.some(({ vm_uuid }) => vm_uuid === vm));
      if (missing.length > 0)
        this.#logger.warn({ vm_uuids: missing }, "these VMs are not registered for this agent");
      return missing.length === 0;
    } finally {
      this.#greeting = false;
    }
  }

  #setOpen(greeting: Greeting): void {
    if (this.#state === "closed" || this.#state === "superseded") return;
    if (this.#state !== "open") {
      this.#logger.info({ generation: greeting.generation, session_id: this.id }, "session open");
    }
    this.#state = "open";
    this.#onGreeting(greeting);
    const ref = { generation: this.#generation, session_id: this.id };
    for (const { resolve } of this.#waiters.splice(0)) resolve(ref);
  }

  #bar(state: "quarantined" | "revoked", error: unknown): void {
    if (this.#state === "closed" || this.#state === "superseded") return;
    const text = `${state}: nothing is claimed until an operator pairs this agent anew`;
    if (this.#state === state) this.#logger.debug({ err: error }, text);
    else this.#logger.error({ err: error }, text);
    this.#state = state;
  }

  /** The mesh says that this generation is not the newest; true of us unless our own hello overtook what was sent. */
  outdated(generation: number): void {
    if (this.#state === "open" && !this.#greeting && generation === this.#generation) this.#supersede();
  }

  #supersede(): void {
    this.#state = "superseded";
    this.#logger.error({ session_id: this.id }, "superseded by a newer session of this agent; stopping");
    for (const { reject } of this.#waiters.splice(0)) reject(new SessionClosed("superseded"));
    this.#onSuperseded();
  }

  #whenOpen(): Promise<SessionRef> {
    if (this.#state === "open" && !this.#greeting) {
      return Promise.resolve({ generation: this.#generation, session_id: this.id });
    }
    if (this.#state === "superseded" || this.#state === "closed") {
      return Promise.reject(new SessionClosed(`the session is ${this.#state}`));
    }
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  /**
   * Sends a report in the name of the open session, waiting for one where there is none. `payloadOf` is called just before
   * sending. Throws SessionClosed, or the mesh's MusterError.
   */
  async report<C extends ReportContract>(
    contract: C,
    payloadOf: (session: SessionRef) => PayloadInputOf<C>,
  ): Promise<ReplyOf<C>> {
    for (;;) {
      const ref = await this.#whenOpen();
      try {
        return await this.#transport.report(contract, payloadOf(ref));
      } catch (error) {
        if (!(error instanceof MusterError) || !this.#refused(error, ref)) throw error;
      }
    }
  }

  /** True when the report is to be sent again in the next session. */
  #refused(error: MusterError, ref: SessionRef): boolean {
    if (error.code === "AGENT_QUARANTINED" || error.code === "AGENT_REVOKED") {
      this.#bar(error.code === "AGENT_QUARANTINED" ? "quarantined" : "revoked", error);
      return true;
    }
    if (error.code !== "AGENT_SUPERSEDED") return false;
    // A report that was overtaken by this session's own newer hello says nothing about other sessions.
    if (ref.generation === this.#generation && !this.#greeting && this.#state === "open") this.#supersede();
    return true;
  }

  close(): Promise<void> {
    this.#stop.abort();
    if (this.#state !== "superseded") this.#state = "closed";
    for (const { reject } of this.#waiters.splice(0)) reject(new SessionClosed("stopping"));
    this.#alarm.ring();
    return Promise.resolve();
  }
}
