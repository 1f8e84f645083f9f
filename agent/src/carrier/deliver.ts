import { fullJitterMs } from "@muster/broker/waiting";
import type { Outcome } from "../drivers/driver.ts";
import { JournalUnwritable, type Journal } from "../journal/journal.ts";
import type { Change } from "../journal/records.ts";
import type { Reports } from "../reports/reports.ts";
import { SessionClosed } from "../session/session.ts";
import type { Counters } from "./counters.ts";
import type { Held } from "./held.ts";

const backoff = { baseMs: 1_000, maxMs: 60_000 } as const;
/** Results read back from the journal and under way at once: a long absence of the mesh leaves many. */
const backlogMax = 50;

/** Writes until the journal takes it, or until `signal` is aborted; what is true stays true meanwhile. */
export async function writeAtLast(journal: Journal, change: Change, signal: AbortSignal): Promise<void> {
  for (;;) {
    try {
      return await journal.write(change);
    } catch (error) {
      if (!(error instanceof JournalUnwritable) || signal.aborted) throw error;
      await journal.whenWritable(signal);
    }
  }
}

/** Sends results until the mesh has acknowledged them, for as long as it takes. */
export class Deliveries {
  readonly #journal: Journal;
  readonly #reports: Reports;
  readonly #counters: Counters;
  readonly #signal: AbortSignal;
  readonly #onDelivered: (held: Held, stored: boolean) => void;
  readonly #backlog: Held[] = [];
  #working = 0;
  #underWay = 0;

  constructor(o: {
    journal: Journal;
    reports: Reports;
    counters: Counters;
    signal: AbortSignal;
    onDelivered: (held: Held, stored: boolean) => void;
  }) {
    this.#journal = o.journal;
    this.#reports = o.reports;
    this.#counters = o.counters;
    this.#signal = o.signal;
    this.#onDelivered = o.onDelivered;
  }

  /** Results that are being sent now. */
  get underWay(): number {
    return this.#underWay;
  }

  /** Results that an earlier life of the agent left: some at a time, read from the journal when it is their turn. */
  resume(held: readonly Held[]): void {
    this.#backlog.push(...held);
    while (this.#working < Math.min(backlogMax, this.#backlog.length)) void this.#work();
  }

  async #work(): Promise<void> {
    this.#working += 1;
    for (let held = this.#backlog.shift(); held !== undefined; held = this.#backlog.shift()) {
      const outcome = this.#journal.find(held.key)?.outcome ?? undefined;
      if (outcome !== undefined) await this.deliver(held, outcome);
      if (this.#signal.aborted) break;
    }
    this.#working -= 1;
  }

  /** Resolves when the mesh has stored or refused the result, or when the agent stops. */
  async deliver(held: Held, outcome: Outcome): Promise<void> {
    const token = held.token;
    if (token === undefined) return;
    const { commandId, attempt } = held.key;
    const item = { command_id: commandId, attempt, token, ...outcome };
    this.#underWay += 1;
    try {
      for (let failures = 0; !this.#signal.aborted;) {
        let waitMs: number;
        try {
          const answer = await this.#reports.result(item);
          if (answer.outcome === "stored") return await this.#stored(held, answer.as);
          if (answer.outcome === "refused") return await this.#refused(held);
          waitMs =
            (answer.outcome === "retry" ? answer.retry_after_ms : backoff.baseMs) * (1 + Math.random());
        } catch (error) {
          if (error instanceof SessionClosed) return;
          held.logger.warn({ err: error }, "the result was not acknowledged; it is sent again");
          waitMs = fullJitterMs(failures++, backoff.baseMs, backoff.maxMs);
        }
        await held.alarm.sleep(waitMs);
      }
    } finally {
      this.#underWay -= 1;
    }
  }

  async #stored(held: Held, as: string): Promise<void> {
    this.#counters.stored.inc({ as });
    if (as === "orphan") held.logger.warn("the result was stored as the orphan of a newer attempt");
    else held.logger.info({ as }, "result acknowledged");
    await this.#settle(held, "acked");
  }

  async #refused(held: Held): Promise<void> {
    this.#counters.staleTokens.inc({ report: "result" });
    held.logger.error("the result was refused, its token is stale; the journal keeps it");
    await this.#settle(held, "orphaned");
  }

  async #settle(held: Held, kind: "acked" | "orphaned"): Promise<void> {
    try {
      await writeAtLast(this.#journal, { kind, key: held.key }, this.#signal);
    } catch {
      // Sent again by the next life of the agent: storing a result twice is harmless.
    }
    this.#onDelivered(held, kind === "acked");
  }
}
