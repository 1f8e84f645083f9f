import type { LimitName } from "@muster/contracts/limits";
import type { Config } from "../config.ts";

/** At most `max` at once; one more for each `windowSeconds / max` that passes. */
export interface Bound {
  readonly max: number;
  readonly windowSeconds: number;
}

export type Bounds = Readonly<Record<LimitName, Bound>>;

export function boundsOf(config: Config): Bounds {
  const failures = config.MUSTER_AUTH_FAILURES_WINDOW_SECONDS;
  const tokens = config.MUSTER_AUTH_TOKENS_WINDOW_SECONDS;
  return {
    "failures-by-address": { max: config.MUSTER_AUTH_FAILURES_BY_ADDRESS_MAX, windowSeconds: failures },
    "failures-by-credential": { max: config.MUSTER_AUTH_FAILURES_BY_CREDENTIAL_MAX, windowSeconds: failures },
    "tokens-by-principal": { max: config.MUSTER_AUTH_TOKENS_BY_PRINCIPAL_MAX, windowSeconds: tokens },
    "tokens-by-tenant": { max: config.MUSTER_AUTH_TOKENS_BY_TENANT_MAX, windowSeconds: tokens },
    "agent-tokens-by-tenant": {
      max: config.MUSTER_AUTH_AGENT_TOKENS_BY_TENANT_MAX,
      windowSeconds: tokens,
    },
  };
}
