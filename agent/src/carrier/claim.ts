import { fullJitterMs } from "@muster/broker/waiting";
import { isFinal, type Claims, type Grant } from "../claims/claims.ts";
import type { Doorbell } from "@muster/contracts/agents";
import type { Journal } from "../journal/journal.ts";
import { SessionClosed } from "../session/session.ts";
import type { Counters } from "./counters.ts";
import { claimOf, type Held } from "./held.ts";
import { jittered } from "./renew.ts";

const backoff = { baseMs: 500, maxMs: 30_000 } as const;
const retryAfterDefaultMs = 2_000;

type Claimed = { grant: Grant; sentAtMs: number } | { comeAgainMs: number } | undefined;

interface Parts {
  readonly journal: Journal;
  readonly claims: Claims;
  readonly counters: Counters;
  readonly signal: AbortSignal;
  readonly isStopping: () => boolean;
  /** Of the command that must start first. */
  readonly onFirst: (bell: Doorbell) => void;
}

/** The grant; undefined when the attempt is over for this agent. Throws when the agent stops. */
export async function claimFor(held: Held, parts: Parts): Promise<Claimed> {
  const { claims, counters, journal } = parts;
  const item = claimOf(held);
  for (let failures = 0; ;) {
    if (parts.isStopping()) throw new SessionClosed("stopping");
    await journal.whenWritable(parts.signal);
    let waitMs: number;
    try {
      const { answer, sentAtMs } = await claims.claim(item);
      failures = 0;
      if (answer.outcome === "granted") {
        counters.claims.inc({ answer: "granted" });
        return { grant: answer, sentAtMs };
      }
      counters.claims.inc({ answer: answer.reason });
      held.logger.info({ reason: answer.reason }, "claim denied");
      if (isFinal(answer)) return undefined;
      // What it waits for is known here already, unless that one's doorbell was lost.
      if (answer.first !== undefined) parts.onFirst(answer.first);
      waitMs = jittered(answer.retry_after_ms ?? retryAfterDefaultMs);
      if (held.lane === "work") return { comeAgainMs: waitMs };
    } catch (error) {
      if (error instanceof SessionClosed) throw error;
      held.logger.warn({ err: error }, "the claim was not answered; it is sent again");
      waitMs = fullJitterMs(++failures, backoff.baseMs, backoff.maxMs);
    }
    await held.alarm.sleep(waitMs);
  }
}
