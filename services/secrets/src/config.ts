import {
  amqpUrl,
  authMode,
  databaseUrl,
  keysMaxAgeSeconds,
  shadowTenantId,
} from "@muster/service/known-settings";
import { duration, integer, setting } from "@muster/service/settings";
import type { Values } from "@muster/service/settings";
import { z } from "zod";
import { keyFromText, keyRule } from "./keys/keys.ts";
import { vaultSettings } from "./vaults/settings.ts";

const keyText = z.string().transform((given, context) => {
  const key = keyFromText(given);
  if (key === undefined) context.addIssue({ code: "custom", message: `must be ${keyRule}` });
  return key ?? z.NEVER;
});
const key = (help: string) => setting({ schema: keyText.optional(), help, secret: true });
const optionalText = z.string().min(1).max(1_024).optional();
const day = 86_400_000;

export const settings = {
  MUSTER_AMQP_URL: amqpUrl,
  MUSTER_DATABASE_URL: databaseUrl,
  AUTH_MODE: authMode,
  MUSTER_SHADOW_TENANT_ID: shadowTenantId,
  MUSTER_KEYS_MAX_AGE_SECONDS: keysMaxAgeSeconds,
  ...vaultSettings,
  MUSTER_SECRETS_KEY_ENCRYPTION_KEY: key(
    "Wraps the data keys of the sealed vault, and makes the key that material is sealed to on the mesh; the same for every replica. Or one of the next two",
  ),
  MUSTER_SECRETS_KEY_ENCRYPTION_KEY_FILE: setting({
    schema: optionalText,
    help: "A file with that key",
  }),
  MUSTER_SECRETS_KEY_ENCRYPTION_KEY_COMMAND: setting({
    schema: optionalText,
    help: "A program and its arguments, with spaces between, that prints that key: a client of a KMS. No shell runs it",
  }),
  MUSTER_SECRETS_KEY_ENCRYPTION_KEY_PREVIOUS: key(
    "While that key is changed: the one before. What it wrapped is wrapped anew. See docs/runbooks/key-rotation.md",
  ),
  MUSTER_SECRETS_KEY_ENCRYPTION_KEY_NEXT: key(
    "Before that key is changed, with several replicas: the one to come, so that each opens what the first of them wraps by it",
  ),
  MUSTER_SECRETS_VAULT_DATABASE_URL: setting({
    schema: databaseUrl.schema.optional(),
    help: "PostgreSQL, as the sealed vault's own role; needed where that is the vault",
    secret: true,
  }),
  MUSTER_SECRETS_VAULT_POOL_MAX: integer({
    help: "Database connections of the sealed vault",
    min: 2,
    max: 100,
    default: 6,
  }),
  MUSTER_SECRETS_REWRAP_INTERVAL_MS: duration({
    help: "How often the sealed vault looks for data keys that the previous key wrapped",
    min: 250,
    max: 3_600_000,
    default: 10_000,
  }),
  MUSTER_SECRETS_PER_TENANT_MAX: integer({
    help: "Secrets that one tenant may have",
    min: 1,
    max: 1_000_000,
    default: 10_000,
  }),
  MUSTER_SECRETS_VERSIONS_MAX: integer({
    help: "Versions that one secret may have",
    min: 2,
    max: 100_000,
    default: 1_000,
  }),
  MUSTER_SECRETS_BINDINGS_MAX: integer({
    help: "Bindings that one secret may have",
    min: 1,
    max: 10_000,
    default: 200,
  }),
  MUSTER_SECRETS_LEASE_MAX_MS: duration({
    help: "Longest lease; one is never longer than its command has left",
    min: 1_000,
    max: day,
    default: 3_600_000,
  }),
  MUSTER_SECRETS_UNFINISHED_MS: duration({
    help: "What has been on its way to the vault, or out of it, for so long was left by a crash, and is cleared away",
    min: 15_000,
    max: day,
    default: 60_000,
  }),
  MUSTER_SECRETS_RESOLVE_CONCURRENCY: integer({
    help: "Agents' questions that one process answers at once",
    min: 1,
    max: 1_000,
    default: 32,
  }),
  MUSTER_SECRETS_POOL_MAX: integer({ help: "Database connections", min: 2, max: 100, default: 10 }),
  MUSTER_SECRETS_STATEMENT_TIMEOUT_MS: duration({
    help: "How long one statement may take",
    min: 1_000,
    max: 120_000,
    default: 10_000,
  }),
};

export type Config = Values<typeof settings>;
