import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";

export type Mode = "shadow" | "enforced";

/** Says in log, metrics and readiness which AUTH_MODE this process runs, so that a fleet of both is seen. */
export function announceMode(o: {
  readonly mode: Mode;
  readonly shadowTenantId: string;
  readonly logger: Logger;
  readonly metrics: Metrics;
}) {
  const gauge = o.metrics.gauge({
    name: "muster_auth_mode",
    help: "1 for the AUTH_MODE that this process runs; one value in the whole fleet, or it is mixed.",
    labels: ["mode"],
  });
  gauge.set({ mode: o.mode }, 1);
  const detail = { mode: o.mode, shadow_tenant_id: o.shadowTenantId };
  if (o.mode === "shadow")
    o.logger.warn(detail, "AUTH_MODE=shadow: bad and missing tokens are let through as the shadow");
  else o.logger.info(detail, "AUTH_MODE=enforced");
  return {
    health: () => ({ ok: true, detail }),
    close: () => Promise.resolve(),
  };
}
