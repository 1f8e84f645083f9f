import { apiKeyPattern } from "@muster/contracts/auth";
import { MusterError } from "@muster/contracts/errors";
import type { Principal } from "@muster/contracts/principal";
import type { Authenticated } from "@muster/http/handler";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import type { ApiKeys } from "./api-keys.ts";

export interface IdentityOptions {
  readonly mode: "shadow" | "enforced";
  readonly shadowTenantId: string;
  readonly apiKeys: Pick<ApiKeys, "tokenFor">;
  /** Enforcing in every mode: it is here that shadow lets through. Throws MusterError. */
  readonly verify: (token: string) => Promise<Principal>;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

export interface Asking {
  /** What stands after `Bearer`. */
  readonly bearer: string | undefined;
  readonly clientAddress: string | undefined;
}

/** Who sends a request. Throws MusterError. */
export type Identify = (asking: Asking) => Promise<Authenticated>;

export function identifyBearer(o: IdentityOptions): Identify {
  const failures = o.metrics.counter({
    name: "muster_auth_failures_total",
    help: "Tokens refused, or that would have been in enforced mode.",
    labels: ["code"],
  });
  const shadowed = o.metrics.counter({
    name: "muster_auth_shadow_total",
    help: "Requests that only shadow mode let through.",
    labels: ["code"],
  });
  // Without a token: whoever is asked next sees nobody, and makes it the same shadow.
  const shadow: Authenticated = Object.freeze({
    principal: Object.freeze({
      tenant_id: o.shadowTenantId,
      subject: "shadow",
      roles: ["member" as const],
      permissions: [],
    }),
    token: undefined,
  });

  async function enforced({ bearer, clientAddress }: Asking): Promise<Authenticated> {
    if (bearer === undefined || bearer === "") {
      failures.inc({ code: "MISSING_BEARER_TOKEN" });
      throw new MusterError("MISSING_BEARER_TOKEN");
    }
    if (!apiKeyPattern.test(bearer)) return { principal: await o.verify(bearer), token: bearer };
    try {
      return await o.apiKeys.tokenFor(bearer, clientAddress);
    } catch (error) {
      if (error instanceof MusterError) failures.inc({ code: error.code });
      throw error;
    }
  }

  if (o.mode === "enforced") return enforced;
  return async (asking) => {
    try {
      return await enforced(asking);
    } catch (error) {
      if (!(error instanceof MusterError) || error.status !== 401) throw error;
      shadowed.inc({ code: error.code });
      o.logger.warn({ code: error.code }, "shadow mode let through what enforced would refuse");
      return shadow;
    }
  };
}
