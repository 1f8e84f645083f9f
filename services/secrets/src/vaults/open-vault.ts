import { readFile } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import { createSecureContext } from "node:tls";
import { SettingsError } from "@muster/service/settings";
import type { SettingFault } from "@muster/service/settings";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { CallLimit } from "./call-limit.ts";
import { guardVault } from "./guard.ts";
import type { GuardedVault, GuardLimits } from "./guard.ts";
import { appRole, givenToken, kubernetes, lineOf } from "./hashicorp/credentials.ts";
import type { Credentials } from "./hashicorp/credentials.ts";
import { openHashicorpVault } from "./hashicorp/vault.ts";
import { lateVault } from "./late-vault.ts";
import { vaultFaults } from "./settings.ts";
import type { VaultConfig } from "./settings.ts";
import { openSupabaseVault } from "./supabase/vault.ts";
import { VaultError } from "./vault.ts";
import type { Vault } from "./vault.ts";

export interface VaultParts {
  /**
   * Opens the embedded vault. A VaultError of it is taken for an outage, that may pass; anything else, like a wrong key, ends the
   * start in every mode.
   */
  readonly sealed: () => Promise<Vault>;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** Ends the wait for a vault that is away. */
  readonly signal: AbortSignal;
}

/** For each place that is taken, how many may wait for one. */
const waitingPerPlace = 4;

/**
 * The vault that the settings choose, behind its guard. In `enforced` it has been asked and has answered when this resolves; else it
 * throws, SettingsError for what is wrong in the settings. In `shadow` it always resolves, but for defects: what needs the vault is
 * VAULT_UNAVAILABLE until it can be asked. Nothing else is ever used in its place.
 */
export async function openVault(config: VaultConfig, parts: VaultParts): Promise<GuardedVault> {
  const faults = vaultFaults(config);
  const enforced = config.SECRETS_VAULT_MODE === "enforced";
  if (enforced && faults.length > 0) throw new SettingsError(faults);
  const { logger, metrics } = parts;
  const vault = lateVault(config.SECRETS_VAULT, async () => {
    if (faults.length > 0) throw notConfigured(faults);
    return await openChosen(config, parts);
  });
  const found = await knock(vault, config, parts, enforced).catch(async (error: unknown) => {
    await vault.close();
    throw error;
  });
  if (found !== undefined) {
    if (enforced) {
      await vault.close();
      throw new Error(`the vault (SECRETS_VAULT=${vault.kind}) cannot be used: ${found.message}`, {
        cause: found,
      });
    }
    const fields = { event: "vault_away", vault: vault.kind, err: found };
    logger.warn(fields, "SECRETS_VAULT_MODE=shadow: started without a vault; what needs it is refused");
  }
  return guardVault(vault, { limits: limitsOf(config), logger, metrics });
}

const notConfigured = (faults: readonly SettingFault[]) =>
  new VaultError(
    "unavailable",
    `it is not configured: ${faults.map(({ name, rule }) => `${name} ${rule}`).join("; ")}`,
  );

const pauseMaxMs = 2_000;

/** Asks it until it answers: once in shadow, else for as long as a start may take. Answers why it cannot be used. */
async function knock(
  vault: Vault,
  config: VaultConfig,
  { signal, logger }: VaultParts,
  patient: boolean,
): Promise<VaultError | undefined> {
  const untilMs = performance.now() + config.MUSTER_SECRETS_VAULT_START_TIMEOUT_MS;
  for (let pauseMs = 100; ; pauseMs = Math.min(pauseMaxMs, pauseMs * 2)) {
    const found = await askOnce(vault, config.MUSTER_SECRETS_VAULT_TIMEOUT_MS, signal);
    // What is refused is refused again: somebody has to change something.
    if (found === undefined || found.fault === "refused" || !patient) return found;
    if (performance.now() + pauseMs > untilMs) return found;
    logger.warn(
      { event: "vault_away", vault: vault.kind, err: found },
      "the vault cannot be asked; it is tried again",
    );
    await delay(pauseMs, undefined, { signal });
  }
}

/** Throws what is no VaultError. */
async function askOnce(
  vault: Vault,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<VaultError | undefined> {
  const limit = new CallLimit(signal, timeoutMs);
  try {
    await limit.within(vault.check(limit.signal));
    return undefined;
  } catch (error) {
    if (limit.ended === "timeout")
      return new VaultError("unavailable", `it did not answer in ${timeoutMs} ms`);
    if (error instanceof VaultError && limit.ended === undefined) return error;
    throw error;
  } finally {
    limit.release();
  }
}

async function openChosen(config: VaultConfig, parts: VaultParts): Promise<Vault> {
  if (config.SECRETS_VAULT === "sealed") return await parts.sealed();
  const ca = await certificatesOf(config.MUSTER_SECRETS_VAULT_CA_FILE);
  const prefix = config.MUSTER_SECRETS_VAULT_PREFIX;
  if (config.SECRETS_VAULT === "supabase") {
    const { SUPABASE_URL: url = "", SUPABASE_SERVICE_ROLE_KEY: serviceRoleKey = "" } = config;
    return openSupabaseVault({ url, serviceRoleKey, rpcName: config.SUPABASE_VAULT_RPC_NAME, prefix, ca });
  }
  return openHashicorpVault({
    address: config.MUSTER_SECRETS_VAULT_ADDR ?? "",
    ca,
    namespace: config.MUSTER_SECRETS_VAULT_NAMESPACE,
    mount: config.MUSTER_SECRETS_VAULT_MOUNT,
    prefix,
    credentials: credentialsOf(config),
    timeoutMs: config.MUSTER_SECRETS_VAULT_TIMEOUT_MS,
    logger: parts.logger,
  });
}

function credentialsOf(config: VaultConfig): Credentials {
  const auth = config.MUSTER_SECRETS_VAULT_AUTH;
  const mount = config.MUSTER_SECRETS_VAULT_AUTH_MOUNT ?? auth;
  if (auth === "token") {
    return givenToken(givenOrIn(config.MUSTER_SECRETS_VAULT_TOKEN, config.MUSTER_SECRETS_VAULT_TOKEN_FILE));
  }
  if (auth === "approle") {
    const secretId = givenOrIn(
      config.MUSTER_SECRETS_VAULT_SECRET_ID,
      config.MUSTER_SECRETS_VAULT_SECRET_ID_FILE,
    );
    return appRole({ mount, roleId: config.MUSTER_SECRETS_VAULT_ROLE_ID ?? "", secretId });
  }
  const jwt = lineOf(config.MUSTER_SECRETS_VAULT_K8S_JWT_FILE);
  return kubernetes({ mount, role: config.MUSTER_SECRETS_VAULT_K8S_ROLE ?? "", jwt });
}

const givenOrIn = (given: string | undefined, file: string | undefined): (() => Promise<string>) =>
  given === undefined ? lineOf(file ?? "") : () => Promise.resolve(given);

/** Believed instead of Node's own. */
async function certificatesOf(file: string | undefined): Promise<string | undefined> {
  if (file === undefined) return undefined;
  const pem = await readFile(file, "utf8").catch(() => undefined);
  if (pem === undefined) throw unusable(file, "cannot be read");
  try {
    createSecureContext({ ca: pem });
  } catch {
    throw unusable(file, "is no certificate in PEM");
  }
  if (!pem.includes("-----BEGIN CERTIFICATE-----")) throw unusable(file, "has no certificate in PEM");
  return pem;
}

const unusable = (file: string, why: string) =>
  new VaultError("refused", `MUSTER_SECRETS_VAULT_CA_FILE ${file} ${why}`);

function limitsOf(config: VaultConfig): GuardLimits {
  const concurrencyMax = config.MUSTER_SECRETS_VAULT_CONCURRENCY_MAX;
  return {
    timeoutMs: config.MUSTER_SECRETS_VAULT_TIMEOUT_MS,
    concurrencyMax,
    waitingMax: concurrencyMax * waitingPerPlace,
    breaker: {
      failuresPercent: config.MUSTER_SECRETS_VAULT_BREAKER_FAILURES_PERCENT,
      callsMin: config.MUSTER_SECRETS_VAULT_BREAKER_CALLS_MIN,
      windowMs: config.MUSTER_SECRETS_VAULT_BREAKER_WINDOW_MS,
      probeMs: config.MUSTER_SECRETS_VAULT_BREAKER_PROBE_MS,
    },
  };
}
