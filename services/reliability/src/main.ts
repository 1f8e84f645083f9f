import { openBroker } from "@muster/broker/broker";
import type { Broker } from "@muster/broker/broker";
import { authRequests } from "@muster/contracts/auth";
import { openDatabase } from "@muster/database/database";
import { openOutboxRelay } from "@muster/database/outbox";
import { hearIssuer } from "@muster/identity/hear-issuer";
import { announceMode } from "@muster/identity/mode";
import { openVerifier } from "@muster/identity/verify";
import type { Verifier } from "@muster/identity/verify";
import { startService } from "@muster/service/start";
import { checkTogether, settings } from "./config.ts";
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
    const verifier: Verifier = own(
      "verifier",
      openVerifier({
        // Asked when the first token is verified; by then the broker below is there.
        fetchKeys: () => broker.request(authRequests.getKeys, {}, ownContext()),
        fetchRevocations: (page) => broker.request(authRequests.listTokenRevocations, page, ownContext()),
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
    await openReliability({ config, database, broker, logger, metrics, own });
  },
);
