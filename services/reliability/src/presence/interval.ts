export interface IntervalBounds {
  /** What a small fleet is told. */
  readonly heartbeatMs: number;
  readonly suspectAfterMs: number;
  readonly lostAfterMs: number;
  /** What all agents together may send. */
  readonly heartbeatsPerSecondMax: number;
}

/**
 * When the next heartbeat is due, in milliseconds: longer as the fleet grows, but never so long that one lost
 * heartbeat makes an agent suspect.
 */
export function nextHeartbeatMs(agents: number, o: IntervalBounds): number {
  const byBudget = (agents / o.heartbeatsPerSecondMax) * 1_000;
  const atMost = Math.min(o.suspectAfterMs / 2, o.lostAfterMs / 4);
  return Math.round(Math.max(Math.min(o.heartbeatMs, atMost), Math.min(byBudget, atMost)));
}
