import { tenantId } from "@muster/contracts/ids";
import {
  amqpUrl,
  authMode,
  databaseUrl,
  keysMaxAgeSeconds,
  shadowTenantId,
} from "@muster/service/known-settings";
import { duration, integer, setting, SettingsError, url } from "@muster/service/settings";
import type { SettingFault, Values } from "@muster/service/settings";
import { z } from "zod";
import { networksOf } from "./issuers/addresses.ts";
import { skewSeconds } from "./signing/life.ts";

const day = 86_400;
const sealingKey = z
  .string()
  .regex(/^[A-Za-z0-9+/]{43}=$/, "must be 32 bytes in base64, as `openssl rand -base64 32` prints them")
  .transform((text) => Buffer.from(text, "base64"));

export const settings = {
  MUSTER_AMQP_URL: amqpUrl,
  MUSTER_DATABASE_URL: databaseUrl,
  AUTH_MODE: authMode,
  MUSTER_SHADOW_TENANT_ID: shadowTenantId,
  MUSTER_AUTH_OPERATOR_TENANT_ID: setting({
    schema: tenantId,
    help: "The operator's tenant: its owners may make tenants, and rotate and revoke signing keys",
    default: "default",
  }),
  MUSTER_MANAGEMENT_URL: url({
    help: "RabbitMQ's management API, as the user that closes agents' connections: an administrator",
    schemes: ["http", "https"],
    secret: true,
  }),
  MUSTER_AUTH_AGENT_BROKER_URL: setting({
    schema: z
      .string()
      .max(512)
      .regex(/^amqps?:\/\/[^/@\s]+(\/[^@\s]*)?$/, "must be like amqps://broker.example.org:5671/muster")
      .optional(),
    help: "RabbitMQ as agents reach it, without a user; told to agents as they are paired",
  }),
  MUSTER_AUTH_AGENT_TOKEN_TTL_SECONDS: integer({
    help: "Life of the tokens by which agents log in at the broker; they renew at half of it",
    unit: "s",
    min: 30,
    max: 3_600,
    default: 600,
  }),
  MUSTER_AUTH_EVICTION_LOOK_MS: duration({
    help: "How often it is looked whether an agent has to be thrown out of the broker; a revocation looks at once",
    min: 100,
    max: 60_000,
    default: 5_000,
  }),
  MUSTER_AUTH_AGENT_SWEEP_MS: duration({
    help: "How often connections of agents whose token has expired are looked for and closed",
    min: 1_000,
    max: 600_000,
    default: 30_000,
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
  MUSTER_KEYS_MAX_AGE_SECONDS: keysMaxAgeSeconds,
  MUSTER_AUTH_KEY_ROTATION_SECONDS: integer({
    help: "How long one key signs before the next one takes over",
    unit: "s",
    min: 5,
    max: 365 * day,
    default: 30 * day,
  }),
  MUSTER_AUTH_KEY_PUBLISH_AHEAD_SECONDS: integer({
    help: "How long a key is published before it signs; at least twice MUSTER_KEYS_MAX_AGE_SECONDS",
    unit: "s",
    min: 2,
    max: 7 * day,
    default: 3_600,
  }),
  MUSTER_AUTH_KEY_LOOK_MS: duration({
    help: "How often each process looks whether a signing key is due for something",
    min: 100,
    max: 60_000,
    default: 5_000,
  }),
  MUSTER_AUTH_KEY_ENCRYPTION_KEY: setting({
    schema: sealingKey,
    help: "Seals the private signing keys in the database; the same for every replica",
    secret: true,
  }),
  MUSTER_AUTH_KEY_ENCRYPTION_KEY_OTHER: setting({
    schema: sealingKey.optional(),
    help: "While the sealing key is changed: also opens what this one sealed. See docs/runbooks/key-rotation.md",
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
  MUSTER_AUTH_ISSUER_NETWORKS: setting({
    schema: z
      .string()
      .max(4_096)
      .refine(isNetworks, "must be networks with commas between, like 10.0.0.0/8")
      .optional(),
    help: "Networks besides the public internet where outside issuers of tokens may be, with commas between",
  }),
  MUSTER_AUTH_ISSUER_TIMEOUT_MS: duration({
    help: "How long an outside issuer has to answer for its keys",
    min: 100,
    max: 10_000,
    default: 2_000,
  }),
  MUSTER_AUTH_ISSUER_KEYS_MAX_AGE_SECONDS: integer({
    help: "Age at which the keys of an outside issuer are fetched again",
    unit: "s",
    min: 60,
    max: day,
    default: 600,
  }),
  MUSTER_AUTH_ISSUER_KEYS_STALE_SECONDS: integer({
    help: "How old the keys of an outside issuer may be while it is away",
    unit: "s",
    min: 60,
    max: day,
    default: 3_600,
  }),
  MUSTER_AUTH_FAILURES_WINDOW_SECONDS: integer({
    help: "In how long so many failures as follow are let pass, and after how long they are forgotten",
    unit: "s",
    min: 10,
    max: 86_400,
    default: 300,
  }),
  MUSTER_AUTH_FAILURES_BY_ADDRESS_MAX: integer({
    help: "Credentials that one address (of IPv6 one /64) may get wrong in that time",
    min: 1,
    max: 1_000_000,
    default: 300,
  }),
  MUSTER_AUTH_FAILURES_BY_CREDENTIAL_MAX: integer({
    help: "Wrong secrets for one key's prefix or client in that time; more are told so, and who holds it goes on",
    min: 1,
    max: 1_000_000,
    default: 100,
  }),
  MUSTER_AUTH_TOKENS_WINDOW_SECONDS: integer({
    help: "In how long so many tokens as follow are given",
    unit: "s",
    min: 1,
    max: 86_400,
    default: 60,
  }),
  MUSTER_AUTH_TOKENS_BY_PRINCIPAL_MAX: integer({
    help: "Tokens that one user or service account is given in that time",
    min: 1,
    max: 1_000_000,
    default: 600,
  }),
  MUSTER_AUTH_TOKENS_BY_TENANT_MAX: integer({
    help: "Tokens that one tenant is given in that time; at least what one of its accounts is",
    min: 1,
    max: 10_000_000,
    default: 6_000,
  }),
  MUSTER_AUTH_AGENT_TOKENS_BY_TENANT_MAX: integer({
    help: "Tokens that all agents of one tenant may take in that window; a fleet that comes back takes one each",
    min: 10,
    max: 1_000_000,
    default: 60_000,
  }),
};

export type Config = Values<typeof settings>;

/** Published at most: the active key, the next one, and this many retired ones whose tokens still live. */
const retiredMax = 17;

function isNetworks(text: string): boolean {
  try {
    networksOf(text);
    return true;
  } catch {
    return false;
  }
}

/** Rules between settings. Throws SettingsError with every fault. */
export function checkTogether(config: Config): void {
  const rotation = config.MUSTER_AUTH_KEY_ROTATION_SECONDS;
  const ahead = config.MUSTER_AUTH_KEY_PUBLISH_AHEAD_SECONDS;
  const maxAge = config.MUSTER_KEYS_MAX_AGE_SECONDS;
  const ttl = Math.max(config.MUSTER_AUTH_TOKEN_TTL_SECONDS, config.MUSTER_AUTH_AGENT_TOKEN_TTL_SECONDS);
  const faults: SettingFault[] = [];
  const demand = (holds: boolean, name: keyof Config, rule: string): void => {
    if (!holds) faults.push({ name, rule, value: String(config[name]) });
  };
  demand(
    ahead >= 2 * maxAge,
    "MUSTER_AUTH_KEY_PUBLISH_AHEAD_SECONDS",
    `must be at least twice MUSTER_KEYS_MAX_AGE_SECONDS, which is ${maxAge}: a verifier may hold a set for so long, and miss one fetch`,
  );
  demand(
    ahead * retiredMax >= ttl + skewSeconds,
    "MUSTER_AUTH_KEY_PUBLISH_AHEAD_SECONDS",
    `must be at least ${Math.ceil((ttl + skewSeconds) / retiredMax)} with MUSTER_AUTH_TOKEN_TTL_SECONDS of ${ttl}: ` +
      "more keys than may be published could have living tokens",
  );
  demand(
    rotation > ahead,
    "MUSTER_AUTH_KEY_ROTATION_SECONDS",
    `must be more than MUSTER_AUTH_KEY_PUBLISH_AHEAD_SECONDS, which is ${ahead}: the next key is published while this one signs`,
  );
  const other = config.MUSTER_AUTH_KEY_ENCRYPTION_KEY_OTHER;
  if (other?.equals(config.MUSTER_AUTH_KEY_ENCRYPTION_KEY) === true) {
    const rule =
      "must be another key than MUSTER_AUTH_KEY_ENCRYPTION_KEY; leave it out when the change is over";
    faults.push({ name: "MUSTER_AUTH_KEY_ENCRYPTION_KEY_OTHER", rule, value: "the same" });
  }
  const each = config.MUSTER_AUTH_TOKENS_BY_PRINCIPAL_MAX;
  demand(
    config.MUSTER_AUTH_TOKENS_BY_TENANT_MAX >= each,
    "MUSTER_AUTH_TOKENS_BY_TENANT_MAX",
    `must be at least MUSTER_AUTH_TOKENS_BY_PRINCIPAL_MAX, which is ${each}: one account could use up its whole tenant's`,
  );
  if (faults.length > 0) throw new SettingsError(faults);
}
