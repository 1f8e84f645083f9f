/** Times as short as their bounds allow, so that what waits for time is found soon. */
export const compressed = {
  reliability: {
    MUSTER_RELIABILITY_SWEEP_INTERVAL_MS: "500",
    MUSTER_RELIABILITY_AUDIT_INTERVAL_MS: "1000",
    MUSTER_RELIABILITY_HEARTBEAT_MS: "500",
    MUSTER_RELIABILITY_LEADER_CHECK_MS: "200",
    MUSTER_VMOPS_DISPATCHED_MAX_MS: "15000",
  },
  "vm-ops": { MUSTER_VMOPS_LEASE_MS: "3000", MUSTER_RELIABILITY_HEARTBEAT_MS: "500" },
  gateway: { MUSTER_GATEWAY_API_KEY_TTL_MS: "1000" },
};

export const agentEnv = { MUSTER_AGENT_KILL_GRACE_MS: "500", MUSTER_AGENT_STOP_GRACE_MS: "0" };

/** How long a step may take to come; one that came once and not again is said. */
export const comesWithinMs = 15_000;
/** After so long without any of the steps that are waited for, none of them is expected: longer than any of them takes. */
export const noneCameMs = 2 * comesWithinMs;

/** The broker may give up what is not ours; nothing else. */
export const foreignMayDie = (letter: { reason: string; type: string }): boolean =>
  letter.reason === "rejected" && letter.type === "";
