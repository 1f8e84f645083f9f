import { referencesOf } from "@muster/contracts/secret-references";
import type { ResolvedSecrets } from "@muster/contracts/secret-reports";
import type { Grant } from "../claims/claims.ts";
import { failed, type Driver, type Outcome } from "../drivers/driver.ts";
import type { Journal } from "../journal/journal.ts";
import type { Answer, Secrets } from "../secrets/resolve.ts";
import type { Counters } from "./counters.ts";
import type { Held } from "./held.ts";
import { abandoned, cancelledBefore } from "./outcomes.ts";

/** vm-ops has judged the attempt meanwhile, or is told to end it: given back, it becomes what vm-ops has on record. */
const givenBack = new Set(["ATTEMPT_NOT_RUNNING"]);

export interface Provided {
  readonly secrets: ResolvedSecrets | undefined;
  /** When their lease ends, by the monotonic clock. */
  readonly untilMs: number;
  /** What of the command's timeout was spent on waiting. */
  readonly waitedMs: number;
}

interface Parts {
  readonly journal: Pick<Journal, "write">;
  readonly secrets: Secrets;
  readonly counters: Counters;
  /** Renews the lease from now on. */
  readonly keepLease: () => void;
}

/**
 * Has the secrets that a granted command names, before anything is started. That they are asked for is on disk first: an attempt
 * whose agent dies meanwhile is given back, for secrets are given once. An outcome where they are not to be had.
 */
export async function provide(
  held: Held,
  grant: Grant,
  driver: Driver,
  parts: Parts,
): Promise<Provided | Outcome> {
  const references = referencesOf(grant.params);
  if (references.length === 0) return { secrets: undefined, untilMs: Infinity, waitedMs: 0 };
  if (!driver.takesSecrets) {
    return failed("secret_refused", "none", `the driver ${driver.name} brings no secrets to what it runs`);
  }
  const waiting = new AbortController();
  held.waiting = waiting;
  try {
    await parts.journal.write({ kind: "noted", key: held.key, fields: { token: grant.token } });
  } catch (error) {
    held.logger.error({ err: error }, "not started: the journal cannot be written");
    return abandoned("the agent's journal could not be written");
  }
  parts.keepLease();
  const fromMs = performance.now();
  const question = { ...held.key, token: grant.token, references };
  const { signal } = waiting;
  const answered = await parts.secrets.resolve(question, {
    ...{ withinMs: grant.timeout_ms, signal, logger: held.logger },
  });
  // Also when it was stopped in the very moment of the answer.
  const answer: Answer = signal.aborted ? { kind: "stopped" } : answered;
  held.waiting = undefined;
  parts.counters.secrets.inc({ answer: "code" in answer ? answer.code : answer.kind });
  switch (answer.kind) {
    case "given":
      return { ...answer, waitedMs: performance.now() - fromMs };
    case "refused":
      if (givenBack.has(answer.code)) return abandoned(answer.error);
      return failed("secret_refused", "none", answer.error);
    case "unavailable":
      return abandoned(`${answer.code}: its secrets could not be had in time: ${references.join(", ")}`);
    case "stopped":
      if (signal.reason === "cancelled") return cancelledBefore();
      return abandoned("the agent was stopping, or had lost its lease, before it had its secrets");
  }
}
