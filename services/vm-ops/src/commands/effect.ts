import type { Effect } from "@muster/contracts/commands";

/**
 * What may be said of a command whose earlier attempts left `carried` and whose last one reported `reported`:
 * never less than either, and certain only where both are.
 */
export function join(carried: Effect, reported: Effect): Effect {
  if (carried === "none" || reported === "applied") return reported;
  if (reported === "none") return carried;
  return carried === "unknown" || reported === "unknown" ? "unknown" : "partial";
}
