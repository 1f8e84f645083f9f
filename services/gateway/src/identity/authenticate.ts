import { apiKeyPattern } from "@muster/contracts/auth";
import { MusterError } from "@muster/contracts/errors";
import type { Principal } from "@muster/contracts/principal";
import type { Route } from "@muster/contracts/route";
import type { Authenticated } from "@muster/http/handler";
import { openShadow } from "@muster/identity/shadow";
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
  readonly route: Pick<Route, "method" | "path">;
}

/** Who sends a request. Throws MusterError. */
export type Identify = (asking: Asking) => Promise<Authenticated>;

export function identifyBearer(o: IdentityOptions): Identify {
  const failures = o.metrics.counter({
    name: "muster_auth_failures_total",
    help: "Tokens refused, or that would have been in enforced mode.",
    labels: ["code"],
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
  const shadow = openShadow(o);
  return async (asking) => {
    try {
      return await enforced(asking);
    } catch (error) {
      const { method, path } = asking.route;
      // Without a token: whoever is asked next sees nobody, and makes it the same shadow.
      return { principal: shadow.pass(error, `${method} ${path}`), token: undefined };
    }
  };
}
