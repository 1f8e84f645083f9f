import { tenantId } from "@muster/contracts/ids";
import { amqpUrl, authMode, databaseUrl, shadowTenantId } from "@muster/service/known-settings";
import { duration, integer, setting } from "@muster/service/settings";
import { z } from "zod";

export const settings = {
  MUSTER_AMQP_URL: amqpUrl,
  MUSTER_DATABASE_URL: databaseUrl,
  AUTH_MODE: authMode,
  MUSTER_SHADOW_TENANT_ID: shadowTenantId,
  MUSTER_AUTH_OPERATOR_TENANT_ID: setting({
    schema: tenantId,
    help: "The operator's tenant: its owners may make tenants",
    default: "default",
  }),
  MUSTER_AUTH_POOL_MAX: integer({ help: "Database connections", min: 1, max: 100, default: 5 }),
  MUSTER_AUTH_STATEMENT_TIMEOUT_MS: duration({
    help: "How long one statement may take",
    min: 100,
    max: 60_000,
    default: 5_000,
  }),
  MUSTER_AUTH_TOKEN_TTL_SECONDS: integer({
    help: "Life of an access token",
    unit: "s",
    min: 60,
    max: 3_600,
    default: 600,
  }),
  MUSTER_AUTH_KEY_ENCRYPTION_KEY: setting({
    schema: z
      .string()
      .regex(/^[A-Za-z0-9+/]{43}=$/, "must be 32 bytes in base64, as `openssl rand -base64 32` prints them")
      .transform((text) => Buffer.from(text, "base64")),
    help: "Seals the private signing keys in the database; the same for every replica",
    secret: true,
  }),
  MUSTER_AUTH_REFRESH_ABSOLUTE_SECONDS: integer({
    help: "Life of a refresh token and all that follow it, however much they are used",
    unit: "s",
    min: 3_600,
    max: 90 * 86_400,
    default: 30 * 86_400,
  }),
  MUSTER_AUTH_REFRESH_IDLE_SECONDS: integer({
    help: "Life of a refresh token that is not used",
    unit: "s",
    min: 600,
    max: 90 * 86_400,
    default: 7 * 86_400,
  }),
  MUSTER_AUTH_REFRESH_RETRY_SECONDS: integer({
    help: "How long the same request with a refresh token, sent again, gets the same answer; 0 never",
    unit: "s",
    min: 0,
    max: 120,
    default: 30,
  }),
};
