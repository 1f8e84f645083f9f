/**
 * The life of a signing key:
 *
 *   next     published, signs nothing: verifiers learn of it before they need it
 *   active   signs
 *   retired  signs no more; verifies until the last token that it signed has expired
 *   revoked  verifies nothing
 *
 * There is always a next key, so that whatever becomes of the active one, a key that every verifier knows takes over.
 * Each step is one transaction; between any two of them the rows are as good as before.
 */
export const keyStatuses = ["next", "active", "retired", "revoked"] as const;
export type KeyStatus = (typeof keyStatuses)[number];

/** What is decided by; times in milliseconds since 1970, by the database's clock. */
export interface KeyFacts {
  readonly kid: string;
  readonly status: KeyStatus;
  readonly createdAtMs: number;
  readonly activatedAtMs: number | null;
  readonly rotationAskedAtMs: number | null;
  readonly verifyUntilMs: number | null;
  readonly revokedAtMs: number | null;
}

export interface LifeSettings {
  /** How long a key signs. */
  readonly rotationMs: number;
  /** How long a key is published before it signs. */
  readonly publishAheadMs: number;
}

export type KeyStep =
  | { readonly kind: "make"; readonly status: "active" | "next" }
  /** `from` is undefined where nothing signs. */
  | { readonly kind: "rotate"; readonly from: string | undefined; readonly to: string }
  | { readonly kind: "remove"; readonly kids: readonly string[] };

/** How far the clocks of those who sign and those who verify may be apart, a rotation's commit included. */
export const skewSeconds = 30;

/** How long a revoked key is remembered. */
export const revokedKeptMs = 30 * 86_400_000;

/** The one thing to be done now; undefined when all is as it must be. */
export function dueStep(keys: readonly KeyFacts[], nowMs: number, life: LifeSettings): KeyStep | undefined {
  const { active, next } = currentOf(keys);
  if (active === undefined) {
    if (next === undefined) return { kind: "make", status: "active" };
    return { kind: "rotate", from: undefined, to: next.kid };
  }
  if (next === undefined) return { kind: "make", status: "next" };
  const rotatesAtMs = rotationOf(keys, life);
  if (rotatesAtMs !== undefined && rotatesAtMs <= nowMs) {
    return { kind: "rotate", from: active.kid, to: next.kid };
  }
  const kids = keys.filter((key) => endOf(key) <= nowMs).map(({ kid }) => kid);
  return kids.length === 0 ? undefined : { kind: "remove", kids };
}

/** When the next key takes over if nobody asks for anything; undefined where one of the two is missing. */
export function rotationOf(keys: readonly KeyFacts[], life: LifeSettings): number | undefined {
  const { active, next } = currentOf(keys);
  if (active === undefined || next === undefined) return undefined;
  const scheduledMs = (active.activatedAtMs ?? active.createdAtMs) + life.rotationMs;
  const wantedMs = Math.min(scheduledMs, active.rotationAskedAtMs ?? Infinity);
  return Math.max(wantedMs, next.createdAtMs + life.publishAheadMs);
}

/**
 * What a request for a rotation does now. A key that has signed for less than the time of publishing ahead is the
 * outcome of a rotation that was just made: whoever asks then, or asks again, is answered with that one.
 */
export function askedRotation(
  keys: readonly KeyFacts[],
  nowMs: number,
  life: LifeSettings,
): "none" | "remember" {
  const { active } = currentOf(keys);
  if (active === undefined || active.rotationAskedAtMs !== null) return "none";
  const signedForMs = nowMs - (active.activatedAtMs ?? active.createdAtMs);
  return signedForMs < life.publishAheadMs ? "none" : "remember";
}

function currentOf(keys: readonly KeyFacts[]) {
  const withStatus = (status: KeyStatus) => keys.find((key) => key.status === status);
  return { active: withStatus("active"), next: withStatus("next") };
}

/** When the row goes. */
function endOf({ status, verifyUntilMs, revokedAtMs }: KeyFacts): number {
  if (status === "retired") return verifyUntilMs ?? Infinity;
  return status === "revoked" && revokedAtMs !== null ? revokedAtMs + revokedKeptMs : Infinity;
}
