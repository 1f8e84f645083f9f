import type { Broker, RequestHandlers } from "@muster/broker/broker";
import { secretsCommands } from "@muster/contracts/mesh";
import { secretsAgentsQueue, secretsReports } from "@muster/contracts/secret-reports";
import { secretsRequests } from "@muster/contracts/secrets";
import type { Database } from "@muster/database/database";
import { openInbox } from "@muster/database/inbox";
import { openOutboxRelay } from "@muster/database/outbox";
import type { Closeable, Health } from "@muster/service/start";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { createBinding, listBindings, removeBinding } from "./bindings/manage.ts";
import type { Config } from "./config.ts";
import type { Keys } from "./keys/keys.ts";
import { AgentKeys } from "./leases/agent-keys.ts";
import { hearingEnds } from "./leases/ended.ts";
import { listLeases, revokeLease } from "./leases/manage.ts";
import { resolving } from "./leases/resolve.ts";
import { getRotation, listRotations } from "./rotations/read.ts";
import { openFollowUps } from "./rotations/send.ts";
import type { FollowUps } from "./rotations/send.ts";
import { deleteSecret, disableSecret, enableSecret } from "./secrets/change-state.ts";
import { createSecret } from "./secrets/create.ts";
import type { SecretParts } from "./secrets/keep.ts";
import { addVersion } from "./secrets/new-version.ts";
import { readVersion } from "./secrets/read-material.ts";
import { getSecret, listSecrets, listVersions } from "./secrets/read.ts";
import { rotateSecret } from "./secrets/rotate.ts";
import { sweepSecrets } from "./sweeps/sweep.ts";
import { openBoxes } from "./transport/boxes.ts";
import type { Vault } from "./vaults/vault.ts";

export interface SecretsOptions {
  readonly config: Config;
  readonly database: Database;
  readonly broker: Broker;
  readonly vault: Vault;
  readonly keys: Keys;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** Closed in reverse order; `health` feeds readiness. */
  own<C extends Closeable>(name: string, closeable: C, health?: (closeable: C) => Health): C;
}

/** Resolves when it answers, hears agents, and publishes what it writes. */
export async function openSecrets(o: SecretsOptions): Promise<void> {
  const { config, database, broker, vault, keys, logger, metrics, own } = o;
  const limits = {
    perTenantMax: config.MUSTER_SECRETS_PER_TENANT_MAX,
    versionsMax: config.MUSTER_SECRETS_VERSIONS_MAX,
    bindingsMax: config.MUSTER_SECRETS_BINDINGS_MAX,
  };
  own(
    "outbox relay",
    await openOutboxRelay({ database, publish: (message) => broker.publish(message), logger, metrics }),
  );
  const recheckMs = config.MUSTER_SECRETS_UNFINISHED_MS;
  const followUps = own(
    "follow-ups",
    openFollowUps({ database, broker, recheckMs, everyMs: 5_000, logger, metrics }),
  );
  const parts = { database, vault, keys, boxes: openBoxes(keys), limits, followUps };
  const ends = hearingEnds(openInbox(database, "secrets.commands"), followUps);
  own("commands", await broker.subscribe(secretsCommands, ends.runOnce, ends.handlers));
  const agentKeys = new AgentKeys({
    broker,
    maxAgeMs: 5_000,
    keptMax: 10_000,
    timeoutMs: 3_000,
    now: () => performance.now(),
  });
  const leaseMaxMs = config.MUSTER_SECRETS_LEASE_MAX_MS;
  const resolve = resolving({ ...parts, broker, agentKeys, leaseMaxMs, logger, metrics });
  const batchConcurrency = config.MUSTER_SECRETS_RESOLVE_CONCURRENCY;
  own(
    "agents",
    await broker.serveReports(secretsAgentsQueue, secretsReports, { resolve }, { batchConcurrency }),
  );
  own("requests", await broker.serve("secrets", secretsRequests, requestHandlers(o, parts)));
}

function requestHandlers(
  { database, config, vault, logger }: SecretsOptions,
  parts: SecretParts & { readonly followUps: FollowUps },
): RequestHandlers<typeof secretsRequests> {
  const unfinishedMs = config.MUSTER_SECRETS_UNFINISHED_MS;
  return {
    getSealingKey: () => Promise.resolve({ x: parts.boxes.x }),
    createSecret: (payload, context) => createSecret(parts, payload, context),
    listSecrets: (payload, context) => listSecrets(database, payload, context),
    getSecret: ({ secret_id }, context) => getSecret(database, secret_id, context),
    disableSecret: ({ secret_id }, context) => disableSecret(parts, secret_id, context),
    enableSecret: ({ secret_id }, context) => enableSecret(parts, secret_id, context),
    deleteSecret: ({ secret_id }, context) => deleteSecret(parts, secret_id, context),
    addVersion: (payload, context) => addVersion(parts, payload, context),
    listVersions: (payload, context) => listVersions(database, payload, context),
    readVersion: (payload, context) => readVersion(parts, payload, context),
    rotateSecret: (payload, context) => rotateSecret(parts, payload, context),
    listRotations: (payload, context) => listRotations(database, payload, context),
    getRotation: (payload, context) => getRotation(database, payload, context),
    createBinding: (payload, context) => createBinding(parts, payload, context),
    listBindings: (payload, context) => listBindings(database, payload, context),
    removeBinding: ({ binding_id }, context) => removeBinding(database, binding_id, context),
    listLeases: (payload, context) => listLeases(database, payload, context),
    revokeLease: ({ lease_id }, context) => revokeLease(database, lease_id, context),
    sweepSecrets: (payload) => sweepSecrets({ ...parts, database, vault, unfinishedMs, logger }, payload),
  };
}
