import { amqpUrl, authMode, keysMaxAgeSeconds, shadowTenantId } from "@muster/service/known-settings";
import { trustedProxies } from "@muster/http/client-address";
import { duration, integer, setting, text } from "@muster/service/settings";
import { z } from "zod";

export const settings = {
  MUSTER_AMQP_URL: amqpUrl,
  AUTH_MODE: authMode,
  MUSTER_SHADOW_TENANT_ID: shadowTenantId,
  MUSTER_KEYS_MAX_AGE_SECONDS: keysMaxAgeSeconds,
  MUSTER_GATEWAY_HOST: text({ help: "Where the API listens", default: "127.0.0.1" }),
  MUSTER_GATEWAY_PORT: integer({
    help: "Port of the API; 0 takes a free one",
    min: 0,
    max: 65_535,
    default: 8_080,
  }),
  MUSTER_GATEWAY_TRUSTED_PROXIES: setting({
    schema: z
      .string()
      .max(4_096)
      .optional()
      .transform((text = "", context) => {
        try {
          return trustedProxies(text.split(",").flatMap((block) => block.trim() || []));
        } catch (error) {
          context.addIssue({
            code: "custom",
            message: error instanceof Error ? error.message : "is no list",
          });
          return z.NEVER;
        }
      }),
    help: "Addresses and CIDR blocks, with commas between, of the proxies whose X-Forwarded-For is believed",
  }),
  MUSTER_GATEWAY_IN_FLIGHT_MAX: integer({
    help: "Requests being answered at once; more get 503 BACKPRESSURE",
    min: 1,
    max: 100_000,
    default: 1_000,
  }),
  MUSTER_GATEWAY_CONNECTIONS_MAX: integer({
    help: "Open connections",
    min: 1,
    max: 1_000_000,
    default: 10_000,
  }),
  MUSTER_GATEWAY_STREAMS_MAX: integer({
    help: "Output streams at once; more get 503 BACKPRESSURE",
    min: 1,
    max: 100_000,
    default: 2_000,
  }),
  MUSTER_GATEWAY_STREAM_POLL_MS: duration({
    help: "How often a stream looks for output when no hint comes",
    min: 50,
    max: 1_000,
    default: 1_000,
  }),
  MUSTER_GATEWAY_STREAM_LINGER_MS: duration({
    help: "How long a stream waits for the rest of the output of a command that has ended",
    min: 1_000,
    max: 600_000,
    default: 60_000,
  }),
  MUSTER_GATEWAY_API_KEY_TTL_MS: duration({
    help: "How long an exchanged API key is known; a revoked key works for so long at most",
    min: 1_000,
    max: 60_000,
    default: 30_000,
  }),
  MUSTER_GATEWAY_AUTH_TIMEOUT_MS: duration({
    help: "How long a request waits for the auth service before it gets 503",
    min: 100,
    max: 30_000,
    default: 3_000,
  }),
};
