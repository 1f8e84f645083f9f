import { isShadowTenant, shadowTenantDefault, shadowTenantPrefix } from "@muster/contracts/principal";
import { tenantId } from "@muster/contracts/ids";
import { logLevels } from "@muster/telemetry/logger";
import { choice, duration, integer, setting, text, url } from "./settings.ts";

/** Every service has these; a service may declare one again to change its default. */
export const commonSettings = {
  MUSTER_LOG_LEVEL: choice(logLevels, { help: "Least level that is logged", default: "info" }),
  MUSTER_INTERNAL_HOST: text({ help: "Where health, readiness and metrics listen", default: "127.0.0.1" }),
  MUSTER_INTERNAL_PORT: integer({
    help: "Port of health, readiness and metrics; 0 takes a free one",
    min: 0,
    max: 65_535,
    default: 9_400,
  }),
  MUSTER_DRAIN_TIMEOUT_MS: duration({
    help: "How long stopping may take before what is stuck is cut",
    min: 1_000,
    max: 600_000,
    default: 25_000,
  }),
};

export const amqpUrl = url({ help: "RabbitMQ, with virtual host", schemes: ["amqp", "amqps"], secret: true });
export const managementUrl = url({
  help: "RabbitMQ's management API, as the user that makes and mends the topology: a policymaker",
  schemes: ["http", "https"],
  secret: true,
});
export const databaseUrl = url({
  help: "PostgreSQL, as this service's own role",
  schemes: ["postgres", "postgresql"],
  secret: true,
});
export const authMode = choice(["shadow", "enforced"], {
  help: "shadow lets bad tokens through as the shadow tenant, and counts them",
  default: "enforced",
});
export const shadowTenantId = setting({
  schema: tenantId.refine(
    isShadowTenant,
    `must begin with ${shadowTenantPrefix}, as no real tenant's id does`,
  ),
  help: "Tenant of requests that only shadow mode let through",
  default: shadowTenantDefault,
});
export const keysMaxAgeSeconds = integer({
  help: "How long a key set is used before it is fetched again; the same for every service",
  unit: "s",
  min: 1,
  max: 3_600,
  default: 600,
});
