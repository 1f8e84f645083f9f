import { MusterError } from "@muster/contracts/errors";
import { BulkheadFull } from "./bulkhead.ts";
import type { CallEnd } from "./call-limit.ts";
import { VaultError } from "./vault.ts";
import type { VaultFault } from "./vault.ts";

export class GuardClosed extends Error {
  override readonly name = "GuardClosed";
}

/** `open`: the breaker is; `busy`: no place; `defect`: something was thrown that no vault throws. */
export type Failed = VaultFault | CallEnd | "open" | "busy" | "closed" | "defect";
export type Outcome = "ok" | Failed;

/** It answered, and what it answered is no sign of weakness. */
const wellAnswered: ReadonlySet<VaultFault> = new Set(["missing", "conflict", "refused"]);

/** Whether the breaker takes a call that failed for one that did not. */
export function sparesBreaker(error: unknown, ended: CallEnd | undefined, o: { probing: boolean }): boolean {
  if (ended === "timeout") return false;
  if (ended === "given_up") return !o.probing;
  return error instanceof VaultError && wellAnswered.has(error.fault);
}

export function outcomeOf(error: unknown, ended: CallEnd | undefined): Failed {
  if (ended !== undefined) return ended;
  if (error instanceof VaultError) return error.fault;
  if (error instanceof BulkheadFull) return "busy";
  if (error instanceof GuardClosed) return "closed";
  return error instanceof Error && "code" in error && error.code === "EOPENBREAKER" ? "open" : "defect";
}

const retryDefaultMs = 1_000;

/** What the caller of a guarded vault gets. Its cause is for our log, and has neither material nor credentials in it. */
export function refusalOf(
  error: unknown,
  outcome: Failed,
  o: { probeInMs: number; timeoutMs: number },
): MusterError {
  const unavailable = (retryAfterMs: number) =>
    new MusterError("VAULT_UNAVAILABLE", undefined, { retryAfterMs, cause: error });
  switch (outcome) {
    case "missing":
      return new MusterError("SECRET_VERSION_NOT_FOUND", undefined, { cause: error });
    case "conflict":
    case "refused":
    case "garbled":
      return new MusterError("VAULT_REFUSED", undefined, { cause: error });
    case "unavailable": {
      const said = error instanceof VaultError ? error.retryAfterMs : undefined;
      return unavailable(Math.max(said ?? retryDefaultMs, o.probeInMs));
    }
    case "open":
      // Half open, the probe decides within one call's time.
      return unavailable(o.probeInMs === 0 ? o.timeoutMs : o.probeInMs);
    case "timeout":
      return unavailable(Math.max(retryDefaultMs, o.probeInMs));
    case "given_up":
    case "busy":
    case "closed":
      return unavailable(retryDefaultMs);
    case "defect":
      return new MusterError("INTERNAL", undefined, { cause: withoutWords(error) });
  }
}

/** Where something unforeseen was thrown, without what it says: nobody knows what that is. */
function withoutWords(error: unknown): Error {
  const what = error instanceof Error ? error.constructor.name : typeof error;
  const bare = new Error(`the vault failed in a way that none should: ${what}`);
  const frames =
    error instanceof Error
      ? (error.stack ?? "").split("\n").filter((line) => /^ {4}at .+:[0-9]+:[0-9]+\)?$/.test(line))
      : [];
  bare.stack = [`Error: ${bare.message}`, ...frames].join("\n");
  return bare;
}
