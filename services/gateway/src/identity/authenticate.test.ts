import { randomBytes } from "node:crypto";
import { MusterError } from "@muster/contracts/errors";
import type { ErrorCode } from "@muster/contracts/errors";
import { routes } from "@muster/contracts/routes";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { expect } from "chai";
import { identifyBearer } from "./authenticate.ts";

const principal = { tenant_id: "acme", subject: "user:u", roles: ["owner" as const], permissions: [] };
const apiKey = `mk_abcdefghij_${randomBytes(32).toString("base64url")}`;

function setup(mode: "shadow" | "enforced", refusal?: ErrorCode) {
  const metrics = createMetrics({ service: "test" });
  const refuse = () => {
    if (refusal !== undefined) throw new MusterError(refusal);
  };
  const identify = identifyBearer({
    mode,
    shadowTenantId: "shadow-tenant",
    apiKeys: {
      tokenFor: () => {
        refuse();
        return { token: "exchanged", principal, expiresAtMs: 0, origin: { asOfMs: 0, via: [] } };
      },
    },
    verify: () => {
      refuse();
      return Promise.resolve(principal);
    },
    logger: openLogger({ service: "test", level: "silent" }),
    metrics,
  });
  return {
    identify: (bearer: string | undefined) =>
      identify({ bearer, clientAddress: "203.0.113.7", route: routes.whoami }),
    metrics,
  };
}

async function outcome(work: Promise<{ principal: { tenant_id: string }; token: string | undefined }>) {
  try {
    const { principal: who, token } = await work;
    return { tenant: who.tenant_id, token };
  } catch (error) {
    if (error instanceof MusterError) return { code: error.code };
    throw error;
  }
}

describe("who sends a request", () => {
  it("is told by an API key or an access token, and the access token goes on", async () => {
    for (const mode of ["shadow", "enforced"] as const) {
      const { identify } = setup(mode);
      expect(await outcome(identify(apiKey))).to.deep.equal({ tenant: "acme", token: "exchanged" });
      expect(await outcome(identify("a.b.c"))).to.deep.equal({ tenant: "acme", token: "a.b.c" });
    }
  });

  it("must be told when enforced", async () => {
    const { identify } = setup("enforced", "INVALID_OR_MISSING_BEARER_TOKEN");
    expect(await outcome(identify(undefined))).to.deep.equal({ code: "MISSING_BEARER_TOKEN" });
    expect(await outcome(identify(apiKey))).to.deep.equal({ code: "INVALID_OR_MISSING_BEARER_TOKEN" });
    expect(await outcome(identify("x"))).to.deep.equal({ code: "INVALID_OR_MISSING_BEARER_TOKEN" });
  });

  it("is a shadow of no real tenant, without a token, where shadow mode lets it through; and counted", async () => {
    const { identify, metrics } = setup("shadow", "INVALID_OR_MISSING_BEARER_TOKEN");
    for (const bearer of [undefined, "x", apiKey]) {
      expect(await outcome(identify(bearer))).to.deep.equal({ tenant: "shadow-tenant", token: undefined });
    }
    const text = await metrics.registry.metrics();
    const route = 'route="GET /api/v1/auth/whoami"';
    expect(text).to.include(
      `muster_auth_shadow_total{code="MISSING_BEARER_TOKEN",${route},service="test"} 1`,
    );
    expect(text).to.include(
      `muster_auth_shadow_total{code="INVALID_OR_MISSING_BEARER_TOKEN",${route},service="test"} 2`,
    );
  });

  it("is not guessed while auth is away, in either mode", async () => {
    for (const mode of ["shadow", "enforced"] as const) {
      const { identify } = setup(mode, "DEPENDENCY_UNAVAILABLE");
      expect(await outcome(identify(apiKey))).to.deep.equal({ code: "DEPENDENCY_UNAVAILABLE" });
    }
  });
});
