import { openDatabase } from "@muster/database/database";
import { SettingsError } from "@muster/service/settings";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import type { Config } from "../../config.ts";
import type { Keys } from "../../keys/keys.ts";
import type { Vault } from "../vault.ts";
import { openSealedVault, sealedVaultSchema } from "./sealed-vault.ts";

/** The sealed vault by the service's settings. Throws SettingsError where one is missing or wrong. */
export async function openOwnVault(o: {
  readonly config: Config;
  readonly keys: Keys;
  readonly logger: Logger;
  readonly metrics: Metrics;
}): Promise<Vault> {
  const { config, ...rest } = o;
  const url = config.MUSTER_SECRETS_VAULT_DATABASE_URL;
  if (url === undefined) {
    const rule = "must be set where the vault is the sealed one";
    throw new SettingsError([{ name: "MUSTER_SECRETS_VAULT_DATABASE_URL", rule, value: undefined }]);
  }
  const database = await openDatabase({
    url,
    schema: sealedVaultSchema,
    applicationName: "muster-secrets-vault",
    poolMax: config.MUSTER_SECRETS_VAULT_POOL_MAX,
    statementTimeoutMs: config.MUSTER_SECRETS_STATEMENT_TIMEOUT_MS,
    logger: o.logger,
    metrics: o.metrics,
  });
  return await openSealedVault({
    ...rest,
    database,
    rewrapEveryMs: config.MUSTER_SECRETS_REWRAP_INTERVAL_MS,
  });
}
