import { MusterError } from "@muster/contracts/errors";
import type { ErrorCode } from "@muster/contracts/errors";
import { VaultError } from "./vaults/vault.ts";

const retryAfterMs = 5_000;
/** Left for our own answer when the vault has used up its time. */
const answerMs = 500;

export interface VaultCall {
  /** How long the asker still waits. */
  readonly remainingMs: number;
  /** What it means that nothing is kept there. */
  readonly missing?: ErrorCode;
}

/** Asks the vault within the asker's time. Throws VAULT_UNAVAILABLE, VAULT_REFUSED, or the code for what is missing. */
export async function askVault<T>(o: VaultCall, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  try {
    return await work(AbortSignal.timeout(Math.max(1, Math.floor(o.remainingMs) - answerMs)));
  } catch (error) {
    throw error instanceof VaultError ? saidBy(error, o.missing) : error;
  }
}

function saidBy(error: VaultError, missing: ErrorCode = "VAULT_REFUSED"): MusterError {
  switch (error.fault) {
    case "missing":
      return new MusterError(missing, undefined, { cause: error });
    case "unavailable":
      return new MusterError("VAULT_UNAVAILABLE", undefined, {
        retryAfterMs: error.retryAfterMs ?? retryAfterMs,
        cause: error,
      });
    case "conflict":
    case "refused":
    case "garbled":
      return new MusterError("VAULT_REFUSED", undefined, { cause: error });
  }
}
