import { openBroker } from "@muster/broker/broker";
import type { Broker } from "@muster/broker/broker";
import { authRequests } from "@muster/contracts/auth";
import { openDatabase } from "@muster/database/database";
import { openOutboxRelay } from "@muster/database/outbox";
import { hearIssuer } from "@muster/identity/hear-issuer";
import { announceMode } from "@muster/identity/mode";
import { openMeshSigner } from "@muster/identity/mesh-signer";
import type { MeshSigner, MeshSignerOptions } from "@muster/identity/mesh-signer";
import { openMeshVerifier } from "@muster/identity/mesh-verify";
import type { MeshVerifier } from "@muster/identity/mesh-verify";
import { startService } from "@muster/service/start";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { checkTogether, settings } from "./config.ts";
import type { Config } from "./config.ts";
import { askOnBehalf } from "./on-behalf.ts";
import { openReliability } from "./open-reliability.ts";
import { ownContext } from "./sweeps/sweep.ts";

await startService(
  { name: "reliability", settings, env: process.env, argv: process.argv },
  async ({ config, logger, metrics, own }) => {
    checkTogether(config);
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
    const database = own(
      "database",
      await openDatabase({
        url: config.MUSTER_DATABASE_URL,
        schema: "reliability",
        applicationName: "muster-reliability",
        poolMax: config.MUSTER_RELIABILITY_POOL_MAX,
        statementTimeoutMs: config.MUSTER_RELIABILITY_STATEMENT_TIMEOUT_MS,
        logger,
        metrics,
      }),
      (opened) => opened.health(),
    );
    const verifier: MeshVerifier = own(
      "verifier",
      // Asked when the first token is verified; by then the broker below is there.
      verifierOf(config, () => broker, { logger, metrics }),
    );
    const broker: Broker = own(
      "broker",
      await openBroker({
        url: config.MUSTER_AMQP_URL,
        name: "reliability",
        service: "reliability",
        identify: (token, asked) => verifier.verify(token, asked),
        logger,
        metrics,
      }),
      (opened) => opened.health(),
    );
    own("issuer changes", await hearIssuer(broker, verifier));
    own(
      "outbox relay",
      await openOutboxRelay({
        database,
        publish: (message) => broker.publish(message),
        // A doorbell that was replayed to a VM that is retired by now: nobody is there to hear it.
        onUnroutable: async ({ exchange, routingKey }) =>
          exchange === "" && routingKey.startsWith("vm.") ? "drop" : "retry",
        logger,
        metrics,
      }),
    );
    const signer = own("mesh key", signerOf(broker, { logger, metrics }));
    const onBehalf = { request: askOnBehalf(broker, { signer, logger }) };
    await openReliability({ config, database, broker, onBehalf, logger, metrics, own });
  },
);

interface Told {
  readonly logger: Logger;
  readonly metrics: Metrics;
}

function verifierOf(config: Config, broker: () => Broker, told: Told): MeshVerifier {
  return openMeshVerifier({
    ...told,
    service: "reliability",
    fetchKeys: () => broker().request(authRequests.getMeshKeys, {}, ownContext()),
    fetchRevocations: (page) => broker().request(authRequests.listTokenRevocations, page, ownContext()),
    mode: config.AUTH_MODE,
    shadowTenantId: config.MUSTER_SHADOW_TENANT_ID,
    keysMaxAgeMs: config.MUSTER_KEYS_MAX_AGE_SECONDS * 1_000,
  });
}

function signerOf(broker: Broker, told: Told): MeshSigner {
  const register: MeshSignerOptions["register"] = (key) =>
    broker.request(authRequests.registerMeshKey, key, ownContext());
  return openMeshSigner({ ...told, service: "reliability", register });
}
