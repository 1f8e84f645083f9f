import type { MusterError } from "@muster/contracts/errors";
import { shadowSubject } from "@muster/contracts/principal";
import type { Principal } from "@muster/contracts/principal";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { Sparing } from "@muster/telemetry/sparing";

export interface Shadow {
  /** Who a refused one is in shadow mode; counts and logs what enforced would have refused. Throws what is no refusal. */
  pass(refusal: unknown, asked: string): Principal;
}

/** `asked` is a label: a declared route or wire name, never what a client wrote. */
export function openShadow(o: {
  readonly shadowTenantId: string;
  readonly logger: Logger;
  readonly metrics: Metrics;
}): Shadow {
  const shadowed = o.metrics.counter({
    name: "muster_auth_shadow_total",
    help: "Requests that only shadow mode let through, by the code that enforced would have answered with.",
    labels: ["code", "route"],
  });
  const lines = new Sparing();
  const principal: Principal = Object.freeze({
    tenant_id: o.shadowTenantId,
    subject: shadowSubject,
    roles: ["member" as const],
    permissions: [],
  });

  return {
    pass(refusal, asked) {
      if (!isRefusal(refusal)) throw refusal;
      const { code } = refusal;
      shadowed.inc({ code, route: asked });
      const held = lines.next(`${code} ${asked}`);
      if (held !== undefined) {
        const line = { code, route: asked, ...(held > 0 ? { not_logged: held } : {}), err: refusal };
        o.logger.warn(line, "shadow mode let through what enforced would refuse");
      }
      return principal;
    },
  };
}

function isRefusal(error: unknown): error is MusterError {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return code === "MISSING_BEARER_TOKEN" || code === "INVALID_OR_MISSING_BEARER_TOKEN";
}
