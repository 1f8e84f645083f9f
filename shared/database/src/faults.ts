import { MusterError } from "@muster/contracts/errors";

/**
 * The connection was lost, or the server cut in, while COMMIT was under way: the transaction may stand or not.
 * Never run the work again blindly; look first, or repeat under the same idempotency key.
 */
export class CommitUnknownError extends MusterError {
  constructor(cause: unknown) {
    super("DEADLINE_EXCEEDED", "the outcome of a commit is unknown; retry with the same Idempotency-Key", {
      cause,
    });
  }
}

export type FaultKind =
  /** Deadlock or serialization failure: the same work may succeed if run again. */
  | "contention"
  /** The server is away, stopping, full, or out of connections. */
  | "lost"
  /** A statement or lock took longer than its limit; the connection is fine. */
  | "timeout"
  /** No connection of the pool came free in time. */
  | "exhausted"
  /** Everything else, constraint violations among it: for the caller to judge. */
  | "other";

const contention = new Set(["40001", "40P01"]);
const timeouts = new Set(["57014", "55P03", "25P04"]);
const lostStates = new Set(["57P01", "57P02", "57P03", "57P04", "57P05", "53100", "53200", "53300", "25006"]);
const socketCodes = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "EPIPE",
  "ETIMEDOUT",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ENOTFOUND",
  "EAI_AGAIN",
]);
const lostTexts =
  /^(Connection terminated|Client has encountered a connection error|Client was closed|Query read timeout|timeout expired|The server does not support)/;

/** Sorts what pg, the pool or the mapper threw; it looks through one layer of wrapping by the mapper. */
export function faultKind(error: unknown): FaultKind {
  if (!(error instanceof Error)) return "other";
  if (error.name === "SequelizeConnectionAcquireTimeoutError") return "exhausted";
  const inner = driverError(error);
  const code = textField(inner, "code");
  if (code !== undefined) {
    if (contention.has(code)) return "contention";
    if (timeouts.has(code)) return "timeout";
    if (lostStates.has(code) || socketCodes.has(code) || /^08...$/.test(code)) return "lost";
  }
  if (lostTexts.test(inner.message) || error.name.startsWith("SequelizeConnection")) return "lost";
  if (error.name === "SequelizeHostNotFoundError" || error.name === "SequelizeHostNotReachableError")
    return "lost";
  return "other";
}

/** What the caller of a transaction gets to see: faults of the server as registered codes, the rest as thrown. */
export function publicFault(error: unknown): unknown {
  if (error instanceof MusterError) return error;
  switch (faultKind(error)) {
    case "exhausted":
      return new MusterError("BACKPRESSURE", "no database connection came free in time", {
        cause: error,
        retryAfterMs: 1_000,
      });
    case "lost":
      return new MusterError("DEPENDENCY_UNAVAILABLE", "the database does not answer", {
        cause: error,
        retryAfterMs: 1_000,
      });
    case "timeout":
      return new MusterError("DEPENDENCY_UNAVAILABLE", "the database did not answer in time", {
        cause: error,
        retryAfterMs: 1_000,
      });
    case "contention":
      return new MusterError("DEPENDENCY_UNAVAILABLE", "the transaction kept colliding with others", {
        cause: error,
        retryAfterMs: 100,
      });
    case "other":
      return error;
  }
}

/** The name of the unique, check, foreign key or exclusion constraint that refused a write, if that is what happened. */
export function violatedConstraint(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const inner = driverError(error);
  if (textField(inner, "code")?.startsWith("23") !== true) return undefined;
  return textField(inner, "constraint") ?? "";
}

/** SQLSTATE of an error from the server, e.g. "42501". */
export function sqlState(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const code = textField(driverError(error), "code");
  return code !== undefined && /^[0-9A-Z]{5}$/.test(code) ? code : undefined;
}

function driverError(error: Error): Error {
  const original: unknown = "original" in error ? error.original : undefined;
  return original instanceof Error ? original : error;
}

function textField(error: object, field: string): string | undefined {
  const value: unknown = Reflect.get(error, field);
  return typeof value === "string" ? value : undefined;
}
