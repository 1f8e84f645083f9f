import type { RetryPolicy, RetryTier } from "@muster/contracts/define";
import { errorCode, MusterError, type ErrorCode } from "@muster/contracts/errors";

/**
 * What a failure says about trying again:
 * `passing` may succeed as it is; `dependency` will, once something else is back; `permanent` never will;
 * `stale` has been overtaken: its effect is there, or is no longer wanted.
 */
export type ErrorKind = "passing" | "dependency" | "permanent" | "stale";

export type Fate =
  | { readonly kind: "retry"; readonly tier: RetryTier }
  | { readonly kind: "dead-letter" }
  | { readonly kind: "drop" };

/** While a dependency is away, the last tier repeats up to this attempt: more than half a day at ten minutes. */
export const dependencyAttemptsMax = 100;

/** What becomes of a message whose handling failed at this attempt, counted from 1. */
export function fateOf(kind: ErrorKind, attempt: number, policy: RetryPolicy): Fate {
  switch (kind) {
    case "stale":
      return { kind: "drop" };
    case "permanent":
      return { kind: "dead-letter" };
    case "passing": {
      const tier = policy.tiers[attempt - 1];
      return tier === undefined ? { kind: "dead-letter" } : { kind: "retry", tier };
    }
    case "dependency": {
      const tier = policy.tiers[Math.min(attempt, policy.tiers.length) - 1];
      if (tier === undefined || attempt >= dependencyAttemptsMax) return { kind: "dead-letter" };
      return { kind: "retry", tier };
    }
  }
}

const dependencyCodes = new Set<ErrorCode>([
  "DEPENDENCY_UNAVAILABLE",
  "BACKPRESSURE",
  "DEADLINE_EXCEEDED",
  "DRAINING",
]);
const staleCodes = new Set<ErrorCode>(["TOO_LATE", "STALE_TOKEN", "AGENT_SUPERSEDED"]);
/** Sockets, and PostgreSQL's classes 08 (connection), 53 (resources) and 57P (shutdown). */
const dependencyErrno =
  /^(ECONNREFUSED|ECONNRESET|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENOTFOUND|EAI_AGAIN|08[0-9A-Z]{3}|53[0-9A-Z]{3}|57P0[1-5])$/;

/** Classifies what a handler threw, looking through its causes. */
export function errorKindOf(error: unknown): ErrorKind {
  if (error instanceof MusterError) {
    if (staleCodes.has(error.code)) return "stale";
    if (dependencyCodes.has(error.code)) return "dependency";
    return error.retriable || error.code === "INTERNAL" ? "passing" : "permanent";
  }
  let cause: unknown = error;
  for (let depth = 0; depth < 5 && typeof cause === "object" && cause !== null; depth++) {
    const code: unknown = Reflect.get(cause, "code");
    if (typeof code === "string" && dependencyErrno.test(code)) return "dependency";
    cause = Reflect.get(cause, "cause") ?? Reflect.get(cause, "parent");
  }
  return "passing";
}

/** The code under which a failure travels in headers. */
export function errorCodeOf(error: unknown): ErrorCode {
  return error instanceof MusterError ? errorCode.parse(error.code) : "INTERNAL";
}
