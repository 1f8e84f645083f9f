import { openBroker } from "@muster/broker/broker";
import type { Broker } from "@muster/broker/broker";
import { authRequests } from "@muster/contracts/auth";
import { uuidv7 } from "@muster/contracts/ids";
import { openDatabase } from "@muster/database/database";
import { hearIssuer } from "@muster/identity/hear-issuer";
import { announceMode } from "@muster/identity/mode";
import { openMeshVerifier } from "@muster/identity/mesh-verify";
import { startService } from "@muster/service/start";
import { settings } from "./config.ts";
import { readKeys } from "./keys/read-keys.ts";
import { openSecrets } from "./open-secrets.ts";
import { openVault } from "./vaults/open-vault.ts";
import { openOwnVault } from "./vaults/sealed/open.ts";

await startService(
  { name: "secrets", settings, env: process.env, argv: process.argv },
  async ({ config, logger, metrics, own, draining }) => {
    const keys = await readKeys(config);
    const enforced = config.SECRETS_VAULT_MODE === "enforced";
    own(
      "auth mode",
      announceMode({
        mode: config.AUTH_MODE,
        shadowTenantId: config.MUSTER_SHADOW_TENANT_ID,
        logger,
        metrics,
      }),
      (announced) => announced.health(),
    );
    const vault = own(
      "vault",
      await openVault(config, {
        sealed: () => openOwnVault({ config, keys, logger, metrics }),
        logger,
        metrics,
        signal: draining,
      }),
      // In shadow the service is there without its vault: what needs it is refused and counted.
      async (opened) => (enforced ? opened.health() : { ...(await opened.health()), ok: true }),
    );
    const database = own(
      "database",
      await openDatabase({
        url: config.MUSTER_DATABASE_URL,
        schema: "secrets",
        applicationName: "muster-secrets",
        poolMax: config.MUSTER_SECRETS_POOL_MAX,
        statementTimeoutMs: config.MUSTER_SECRETS_STATEMENT_TIMEOUT_MS,
        logger,
        metrics,
      }),
      (opened) => opened.health(),
    );
    const verifier = own(
      "verifier",
      openMeshVerifier({
        service: "secrets",
        // Asked when the first token is verified; by then the broker below is there.
        fetchKeys: () => broker.request(authRequests.getMeshKeys, {}, { correlationId: uuidv7() }),
        fetchRevocations: (page) =>
          broker.request(authRequests.listTokenRevocations, page, { correlationId: uuidv7() }),
        mode: config.AUTH_MODE,
        shadowTenantId: config.MUSTER_SHADOW_TENANT_ID,
        keysMaxAgeMs: config.MUSTER_KEYS_MAX_AGE_SECONDS * 1_000,
        logger,
        metrics,
      }),
    );
    const broker: Broker = own(
      "broker",
      await openBroker({
        url: config.MUSTER_AMQP_URL,
        name: "secrets",
        service: "secrets",
        identify: (token, asked) => verifier.verify(token, asked),
        logger,
        metrics,
      }),
      (opened) => opened.health(),
    );
    own("issuer changes", await hearIssuer(broker, verifier));
    await openSecrets({ config, database, broker, vault, keys, logger, metrics, own });
  },
);
