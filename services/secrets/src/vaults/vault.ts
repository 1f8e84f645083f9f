import type { Material, VaultKind } from "@muster/contracts/secrets";

/** Where a version of a secret is, by ids alone: names are Muster's, and may change. */
export interface Place {
  readonly tenantId: string;
  readonly secretId: string;
  readonly version: number;
}

/**
 * Where material is kept; nothing else of Muster holds any. Each call ends when `signal` says so, and throws VaultError. Nothing that
 * is thrown or logged has material in it.
 */
export interface Vault {
  readonly kind: VaultKind;
  /** Whether it can be asked: reachable, unsealed, and our credentials and configuration of use. */
  check(signal: AbortSignal): Promise<void>;
  /** Keeps a version; again with the same material is harmless. What is there and differs stays, and `conflict` is thrown. */
  write(place: Place, material: Material, signal: AbortSignal): Promise<void>;
  /** Throws `missing` for what was never kept, or was destroyed. */
  read(place: Place, signal: AbortSignal): Promise<Material>;
  /** For good. Again, or of what is not there, is harmless. */
  destroy(place: Place, signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

/**
 * `unavailable`: it does not answer, is sealed or overloaded; it may later. `refused`: it answers that we may not.
 * `garbled`: what it says makes no sense.
 */
export type VaultFault = "missing" | "conflict" | "unavailable" | "refused" | "garbled";

export class VaultError extends Error {
  override readonly name = "VaultError";
  readonly fault: VaultFault;
  /** As the vault said it, where it did. */
  readonly retryAfterMs: number | undefined;

  constructor(
    fault: VaultFault,
    message: string,
    options: { retryAfterMs?: number | undefined; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.fault = fault;
    this.retryAfterMs = options.retryAfterMs;
  }
}
