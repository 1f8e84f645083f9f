/** How often one family may be used: its used tokens are all remembered. */
export const usesMax = 10_000;

/** A refresh token that was presented, as its family is now. */
export interface Presented {
  readonly generation: number;
  /** How often its family was used: the token of this generation is the one that works. */
  readonly uses: number;
  /** Neither revoked nor beyond its time. */
  readonly alive: boolean;
  /** What it came from gives tokens still: key, holder and tenant. */
  readonly usable: boolean;
  /** By the very request of the family's last use, within the time that a retry has. */
  readonly retried: boolean;
}

/** `rotate`: the next token; `repeat`: the same answer again; `reuse`: the family is revoked. */
export type Verdict = "rotate" | "repeat" | "reuse" | "refuse";

/**
 * A used token that comes again was stolen from whoever used it or by whoever did: its whole family ends. Only the last
 * use may be repeated, by the request that made it, and only while its successor is unused: then nobody else has learned
 * anything, and an answer was lost.
 */
export function verdictOn(presented: Presented): Verdict {
  const { generation, uses, alive, usable, retried } = presented;
  if (!alive) return "refuse";
  if (generation < uses && !(generation === uses - 1 && retried)) return "reuse";
  if (!usable) return "refuse";
  if (generation < uses) return "repeat";
  return uses < usesMax ? "rotate" : "refuse";
}
