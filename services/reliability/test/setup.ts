import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import { openBroker } from "@muster/broker/broker";
import type { Broker } from "@muster/broker/broker";
import { applyTopology } from "@muster/broker/topology-apply";
import { meshWith } from "@muster/contracts/mesh";
import type { Service } from "@muster/contracts/define";
import type { WorkContext } from "@muster/contracts/envelope";
import type { MeshKey } from "@muster/contracts/mesh-keys";
import type { Principal, Role } from "@muster/contracts/principal";
import { agentLoginName, loginName } from "@muster/contracts/senders";
import { topologyOf } from "@muster/contracts/topology";
import { openDatabase } from "@muster/database/database";
import type { Database } from "@muster/database/database";
import { openOutboxRelay } from "@muster/database/outbox";
import { openMeshSigner, thumbprintOf } from "@muster/identity/mesh-signer";
import { openMeshVerifier } from "@muster/identity/mesh-verify";
import { vouching } from "@muster/identity/vouch";
import { readSettings } from "@muster/service/settings";
import type { Closeable, Health } from "@muster/service/start";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import type { Metrics } from "@muster/telemetry/metrics";
import { setupDatabase } from "@muster/testing/database";
import { setupVhost } from "@muster/testing/vhost";
import { settings } from "../src/config.ts";
import { askOnBehalf } from "../src/on-behalf.ts";
import { openReliability } from "../src/open-reliability.ts";

export const silent = openLogger({ service: "test", level: "silent" });

/** Seconds where the defaults are minutes. */
const quick = {
  MUSTER_RELIABILITY_SWEEP_INTERVAL_MS: "250",
  MUSTER_RELIABILITY_PRESENCE_INTERVAL_MS: "100",
  MUSTER_RELIABILITY_AUDIT_INTERVAL_MS: "1000",
  MUSTER_RELIABILITY_PRUNE_INTERVAL_MS: "1000",
  MUSTER_RELIABILITY_MIRROR_INTERVAL_MS: "500",
  MUSTER_RELIABILITY_LEADER_CHECK_MS: "200",
};

const opened: (() => Promise<unknown>)[] = [];

/** Closed after the test, last opened first, whether the test passed or not. */
export function closeAfterTest<C extends { close(): Promise<unknown> }>(closeable: C): C {
  opened.push(() => closeable.close());
  return closeable;
}

/** To be called at the top of each test file: mocha forgets the hooks that a file before it in the same process made. */
export function closeAfterEachTest(): void {
  if (opened.length > 0) throw new Error("an earlier test file has left open what it opened");
  afterEach(async () => {
    for (const close of opened.splice(0).reverse()) await close();
  });
}

export interface Ground {
  readonly vhost: Awaited<ReturnType<typeof setupVhost>>;
  readonly database: Awaited<ReturnType<typeof setupDatabase>>;
  /** By which services vouch for callers here. */
  readonly meshKeys: MeshKey[];
  /** The environment of a process of ours. */
  readonly env: Record<string, string>;
}

/** A vhost with the whole topology and a migrated database. */
export async function setupGround(): Promise<Ground> {
  const [vhost, database] = await Promise.all([
    setupVhost(),
    setupDatabase({
      migrations: [
        {
          schema: "reliability",
          directory: fileURLToPath(new URL("../../migrations", import.meta.url)),
        },
      ],
    }),
  ]);
  const topology = topologyOf(meshWith({ type: "quorum", deliveryLimit: 2, lengthMax: 10_000 }));
  await applyTopology(topology, { amqpUrl: vhost.amqpUrl, managementUrl: vhost.managementUrl });
  const env = {
    ...quick,
    MUSTER_AMQP_URL: await vhost.urlAs(loginName("reliability")),
    MUSTER_MANAGEMENT_URL: vhost.managementUrl,
    MUSTER_DATABASE_URL: database.urlFor("reliability"),
  };
  const close = () => Promise.all([vhost.destroy(), database.destroy()]);
  closeAfterTest({ close });
  return { vhost, database, meshKeys: [], env };
}

export interface Running {
  readonly database: Database;
  readonly broker: Broker;
  readonly metrics: Metrics;
  readonly health: ReadonlyMap<string, () => Health>;
  close(): Promise<void>;
}

/** The service in this process, wired as main.ts wires it; more settings go over the quick ones. */
export async function startReliability(ground: Ground, more: Record<string, string> = {}): Promise<Running> {
  const config = readSettings(settings, { ...ground.env, ...more });
  const metrics = createMetrics({ service: "reliability" });
  const owned: Closeable[] = [];
  const close = async () => {
    for (const closeable of owned.splice(0)) await closeable.close();
  };
  closeAfterTest({ close });
  const health = new Map<string, () => Health>();
  const own = <C extends Closeable>(name: string, closeable: C, check?: (c: C) => Health): C => {
    owned.unshift(closeable);
    if (check !== undefined) health.set(name, () => check(closeable));
    return closeable;
  };
  const common = { logger: silent, metrics };
  const database = own(
    "database",
    await openDatabase({
      ...common,
      url: config.MUSTER_DATABASE_URL,
      schema: "reliability",
      applicationName: "muster-reliability",
      poolMax: 6,
      statementTimeoutMs: 10_000,
    }),
  );
  const verifier = meshVerifierFor("reliability", ground.meshKeys);
  const broker = own(
    "broker",
    await openBroker({
      ...common,
      url: config.MUSTER_AMQP_URL,
      name: "reliability",
      service: "reliability",
      identify: verifier.verify,
      drainTimeoutMs: 2_000,
    }),
  );
  own(
    "relay",
    await openOutboxRelay({
      ...common,
      database,
      publish: (message) => broker.publish(message),
      pollMs: 200,
    }),
  );
  const signer = signerFor("reliability", ground.meshKeys);
  const onBehalf = { request: askOnBehalf(broker, { signer, logger: silent }) };
  await openReliability({ ...common, config, database, broker, onBehalf, own });
  return { database, broker, metrics, health, close };
}

/** What the access tokens of whom peers ask for were made from. */
export const madeFrom = { asOfMs: Date.UTC(2030, 0, 1), via: ["api-key:0190aaaa"] };

/** A broker of somebody else on the same vhost: an asker, or a scripted owner. */
export async function openPeer(ground: Ground, name: "gateway" | "vm-ops" | "auth"): Promise<Broker> {
  const broker = await openBroker({
    url: await ground.vhost.urlAs(loginName(name)),
    name,
    service: name,
    logger: silent,
    metrics: createMetrics({ service: name }),
    identify: meshVerifierFor(name, ground.meshKeys).verify,
    drainTimeoutMs: 2_000,
  });
  closeAfterTest(broker);
  const signer = signerFor(name, ground.meshKeys);
  const ask = broker.request.bind(broker);
  // What it asks for somebody, it vouches for.
  broker.request = (contract, payload, context: WorkContext & { principal?: Principal }, options) => {
    const { principal } = context;
    if (principal === undefined) return ask(contract, payload, context, options);
    const origin = () => madeFrom;
    return vouching({ signer, logger: silent }, { principal, origin }, contract, (identity) =>
      ask(contract, payload, { ...context, identity }, options),
    );
  };
  return broker;
}

/** Agents, each by a login of its own, the same each time. */
export function openAgents(ground: Ground): Pick<Broker, "report"> {
  const brokers = new Map<string, Promise<Broker>>();
  const common = { name: "agent", logger: silent, metrics: createMetrics({ service: "agent" }) };
  const open = async (login: string): Promise<Broker> =>
    closeAfterTest(await openBroker({ ...common, url: await ground.vhost.urlAs(login) }));
  return {
    async report(contract, payload, from, context, options) {
      const login = agentLoginName(from.agentId);
      const broker = brokers.get(login) ?? open(login);
      brokers.set(login, broker);
      return (await broker).report(contract, payload, from, context, options);
    },
  };
}

/** Whom a gateway asks for: it vouches by a key that every peer here knows. */
export const asking = (
  _ground: Ground,
  tenantId: string,
  role: Role = "admin",
  subject = `user:${randomUUID()}`,
): WorkContext & { readonly principal: Principal } => ({
  correlationId: randomUUID(),
  principal: { tenant_id: tenantId, subject, roles: [role], permissions: [] },
});

function signerFor(service: Service, keys: MeshKey[]) {
  const register = ({ x }: { x: string }) => {
    const key = { kty: "OKP", crv: "Ed25519", x, kid: thumbprintOf(x), alg: "EdDSA", use: "sig" } as const;
    keys.push({ ...key, service });
    return Promise.resolve({ expires_in_seconds: 7_200 });
  };
  const metrics = createMetrics({ service });
  return closeAfterTest(openMeshSigner({ service, register, logger: silent, metrics }));
}

function meshVerifierFor(service: Service, keys: readonly MeshKey[]) {
  return openMeshVerifier({
    ...{ service, mode: "enforced", shadowTenantId: "shadow-tenant", logger: silent },
    fetchKeys: () => Promise.resolve({ keys: [...keys] }),
    fetchRevocations: () => Promise.resolve({ items: [], next_cursor: null }),
    metrics: createMetrics({ service }),
  });
}

/** The value of a metric with exactly these labels, or undefined while there is none. */
export async function metricOf(
  metrics: Metrics,
  name: string,
  labels: Record<string, string> = {},
): Promise<number | undefined> {
  const found = await metrics.registry.getSingleMetric(name)?.get();
  return found?.values.find(({ labels: has }) =>
    Object.entries(labels).every(([key, value]) => String(Reflect.get(has, key)) === value),
  )?.value;
}

export const inSystem = <R>(
  database: Database,
  text: string,
  values: readonly unknown[] = [],
): Promise<R[]> => database.transaction("system", (tx) => tx.query<R>(text, values));
