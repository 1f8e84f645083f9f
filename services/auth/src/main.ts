import { openBroker } from "@muster/broker/broker";
import { openDatabase } from "@muster/database/database";
import { openVerifier } from "@muster/identity/verify";
import { startService } from "@muster/service/start";
import { settings } from "./config.ts";
import { openAuth } from "./open-auth.ts";
import { findPublished } from "./signing/store.ts";
import { openTokenPruner } from "./tokens/prune.ts";

await startService({ name: "auth", settings, env: process.env, argv: process.argv }, async (service) => {
  const { config, logger, metrics } = service;
  const database = service.own(
    "database",
    await openDatabase({
      url: config.MUSTER_DATABASE_URL,
      schema: "auth",
      applicationName: "muster-auth",
      poolMax: config.MUSTER_AUTH_POOL_MAX,
      statementTimeoutMs: config.MUSTER_AUTH_STATEMENT_TIMEOUT_MS,
      logger,
      metrics,
    }),
    (opened) => opened.health(),
  );
  const verifier = service.own(
    "verifier",
    openVerifier({
      fetchKeys: () => database.transaction("system", findPublished, { readOnly: true }),
      mode: config.AUTH_MODE,
      shadowTenantId: config.MUSTER_SHADOW_TENANT_ID,
      logger,
      metrics,
    }),
  );
  const broker = service.own(
    "broker",
    await openBroker({
      url: config.MUSTER_AMQP_URL,
      name: "auth",
      service: "auth",
      identify: (token) => verifier.verify(token),
      logger,
      metrics,
    }),
    (opened) => opened.health(),
  );
  await openAuth({
    database,
    broker,
    keyEncryptionKey: config.MUSTER_AUTH_KEY_ENCRYPTION_KEY,
    tokenTtlSeconds: config.MUSTER_AUTH_TOKEN_TTL_SECONDS,
    operatorTenantId: config.MUSTER_AUTH_OPERATOR_TENANT_ID,
    shadowTenantId: config.MUSTER_SHADOW_TENANT_ID,
    logger,
    refreshLife: {
      absoluteSeconds: config.MUSTER_AUTH_REFRESH_ABSOLUTE_SECONDS,
      idleSeconds: config.MUSTER_AUTH_REFRESH_IDLE_SECONDS,
      retrySeconds: config.MUSTER_AUTH_REFRESH_RETRY_SECONDS,
    },
  });
  service.own("token pruner", openTokenPruner({ database, logger, everyMs: 60_000 }));
});
