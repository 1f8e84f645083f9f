import { openBroker } from "@muster/broker/broker";
import { vhostOf } from "@muster/broker/management";
import type { SigningKeyKind } from "@muster/contracts/signing-keys";
import type { PreparedMessage } from "@muster/contracts/message";
import { openDatabase } from "@muster/database/database";
import type { Database } from "@muster/database/database";
import { openOutboxRelay } from "@muster/database/outbox";
import { hearIssuer } from "@muster/identity/hear-issuer";
import { announceMode } from "@muster/identity/mode";
import { openMeshVerifier } from "@muster/identity/mesh-verify";
import { startService } from "@muster/service/start";
import type { ServiceContext } from "@muster/service/start";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { openEvictions } from "./agents/evictions.ts";
import { guardBy } from "./agents/guard.ts";
import { checkTogether, settings } from "./config.ts";
import type { Config } from "./config.ts";
import { networksOf } from "./issuers/addresses.ts";
import { exchangesOf } from "./issuers/exchange.ts";
import { IssuerKeys } from "./issuers/keys.ts";
import { boundsOf } from "./limits/bounds.ts";
import { findMeshKeys } from "./mesh-keys/register.ts";
import { openAuth } from "./open-auth.ts";
import { listRevocations, openRevocationTeller } from "./revocations/tell.ts";
import { openSigning } from "./signing/open-signing.ts";
import { sealerOf } from "./signing/sealed.ts";
import { openTokenPruner } from "./tokens/prune.ts";

await startService({ name: "auth", settings, env: process.env, argv: process.argv }, async (service) => {
  const { config, logger, metrics } = service;
  checkTogether(config);
  service.own(
    "auth mode",
    announceMode({ mode: config.AUTH_MODE, shadowTenantId: config.MUSTER_SHADOW_TENANT_ID, logger, metrics }),
    (announced) => announced.health(),
  );
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
    openMeshVerifier({
      service: "auth",
      fetchKeys: () => database.transaction("system", findMeshKeys, { readOnly: true }),
      fetchRevocations: (page) => listRevocations(database, page),
      mode: config.AUTH_MODE,
      shadowTenantId: config.MUSTER_SHADOW_TENANT_ID,
      keysMaxAgeMs: config.MUSTER_KEYS_MAX_AGE_SECONDS * 1_000,
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
      identify: (token, asked) => verifier.verify(token, asked),
      logger,
      metrics,
    }),
    (opened) => opened.health(),
  );
  const publish = (message: PreparedMessage) => broker.publish(message);
  service.own("outbox relay", await openOutboxRelay({ database, publish, logger, metrics }));
  service.own("issuer changes", await hearIssuer(broker, verifier));
  const { keeping, signing, agents } = await openKeys(service, database);
  await openAuth({
    database,
    broker,
    signing,
    keeping,
    operatorTenantId: config.MUSTER_AUTH_OPERATOR_TENANT_ID,
    refreshLife: refreshLifeOf(config),
    external: externalOf(config, service),
    agents,
    bounds: boundsOf(config),
    logger,
    metrics,
  });
  service.own("revocation teller", openRevocationTeller({ database, logger, everyMs: 1_000 }));
  service.own("token pruner", openTokenPruner({ database, logger, everyMs: 60_000 }));
});

function keepingOf(config: Config) {
  return {
    sealer: sealerOf(config.MUSTER_AUTH_KEY_ENCRYPTION_KEY, config.MUSTER_AUTH_KEY_ENCRYPTION_KEY_OTHER),
    tokenTtlSeconds: {
      access: config.MUSTER_AUTH_TOKEN_TTL_SECONDS,
      broker: config.MUSTER_AUTH_AGENT_TOKEN_TTL_SECONDS,
    },
    life: {
      rotationMs: config.MUSTER_AUTH_KEY_ROTATION_SECONDS * 1_000,
      publishAheadMs: config.MUSTER_AUTH_KEY_PUBLISH_AHEAD_SECONDS * 1_000,
    },
  };
}

/** The keys of every kind, who guards the broker against agents that were revoked, and what agents are told of it. */
async function openKeys(service: ServiceContext<typeof settings>, database: Database) {
  const { config, logger, metrics } = service;
  const keeping = { database, ...keepingOf(config) };
  const open = async (kind: SigningKeyKind) => {
    const tokenTtlSeconds = keeping.tokenTtlSeconds[kind];
    const lookMs = config.MUSTER_AUTH_KEY_LOOK_MS;
    const keys = await openSigning({ ...keeping, kind, tokenTtlSeconds, lookMs, logger, metrics });
    return service.own(`${kind} signing keys`, keys);
  };
  const signing = await open("access");
  const brokerSigning = await open("broker");
  const evictions = service.own(
    "evictions",
    openEvictions({
      database,
      guard: guardBy(config.MUSTER_MANAGEMENT_URL, config.MUSTER_AMQP_URL),
      everyMs: config.MUSTER_AUTH_EVICTION_LOOK_MS,
      sweepMs: config.MUSTER_AUTH_AGENT_SWEEP_MS,
      logger,
      metrics,
    }),
  );
  const brokerUrl = config.MUSTER_AUTH_AGENT_BROKER_URL ?? null;
  const vhost = vhostOf(config.MUSTER_AMQP_URL);
  return { keeping, signing, agents: { signing: brokerSigning, evictions, brokerUrl, vhost } };
}

function externalOf(config: Config, { logger, metrics }: { logger: Logger; metrics: Metrics }) {
  const networks = networksOf(config.MUSTER_AUTH_ISSUER_NETWORKS ?? "");
  const keys = new IssuerKeys({
    networks,
    timeoutMs: config.MUSTER_AUTH_ISSUER_TIMEOUT_MS,
    maxAgeMs: config.MUSTER_AUTH_ISSUER_KEYS_MAX_AGE_SECONDS * 1_000,
    staleMaxMs: config.MUSTER_AUTH_ISSUER_KEYS_STALE_SECONDS * 1_000,
    logger,
  });
  return { networks, keys, logger, exchanges: exchangesOf(metrics), now: Date.now };
}

function refreshLifeOf(config: Config) {
  return {
    absoluteSeconds: config.MUSTER_AUTH_REFRESH_ABSOLUTE_SECONDS,
    idleSeconds: config.MUSTER_AUTH_REFRESH_IDLE_SECONDS,
    retrySeconds: config.MUSTER_AUTH_REFRESH_RETRY_SECONDS,
  };
}
