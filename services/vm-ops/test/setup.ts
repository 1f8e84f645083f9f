import { fileURLToPath } from "node:url";
import { openBroker } from "@muster/broker/broker";
import type { Broker } from "@muster/broker/broker";
import { applyTopology } from "@muster/broker/topology-apply";
import type { PayloadInputOf, ReplyOf, RequestContract } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { meshWith } from "@muster/contracts/mesh";
import type { Principal } from "@muster/contracts/principal";
import { loginName } from "@muster/contracts/senders";
import { topologyOf } from "@muster/contracts/topology";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { openDatabase } from "@muster/database/database";
import type { Database } from "@muster/database/database";
import { readSettings } from "@muster/service/settings";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { setupDatabase } from "@muster/testing/database";
import type { TestDatabase } from "@muster/testing/database";
import { setupVhost } from "@muster/testing/vhost";
import type { Vhost } from "@muster/testing/vhost";
import { settings } from "../src/config.ts";
import { openVmOps } from "../src/open-vm-ops.ts";

export const logger = openLogger({ service: "test", level: process.env["MUSTER_TEST_LOG"] ?? "silent" });
const migrations = [
  { schema: "vm_ops", directory: fileURLToPath(new URL("../../migrations", import.meta.url)) },
];

/** In these tests a token is `<tenant>/<role>`: who holds it is not what they are about. */
export async function identify(token: string | undefined): Promise<Principal> {
  const [tenant_id, role] = (token ?? "").split("/");
  if (tenant_id === undefined || (role !== "member" && role !== "admin")) {
    throw new MusterError("INVALID_OR_MISSING_BEARER_TOKEN");
  }
  return { tenant_id, subject: `user:${tenant_id}`, roles: [role], permissions: [] };
}

export interface Setup {
  readonly postgres: TestDatabase;
  readonly vhost: Vhost;
  readonly database: Database;
  /** The gateway's; vm-ops has its own. */
  readonly broker: Broker;
  /** Of who logs in so, the same each time. */
  peer(login: string): Promise<Broker>;
  ask<C extends RequestContract>(
    contract: C,
    payload: PayloadInputOf<C>,
    who?: { tenant?: string; role?: "member" | "admin" },
  ): Promise<ReplyOf<C>>;
  /** Registers a VM and answers its id. */
  vm(o?: { tenant?: string; concurrency?: number; labels?: Record<string, string> }): Promise<string>;
  /** Accepts an exec command and answers its id. */
  exec(
    vmUuid: string,
    o?: Partial<PayloadInputOf<typeof vmOpsRequests.acceptCommand>["command"]>,
  ): Promise<string>;
  /** One row as the system role sees it. */
  sql<R>(text: string, values?: readonly unknown[]): Promise<R[]>;
  /** Another replica of the service on the same database and broker. */
  replica(): Promise<{ close(): Promise<void> }>;
  close(): Promise<void>;
}

export interface SetupOptions {
  readonly env?: Record<string, string>;
}

async function openService(
  postgres: TestDatabase,
  vhost: Vhost,
  env: Record<string, string>,
): Promise<{ database: Database; broker: Broker; close(): Promise<void> }> {
  const url = postgres.urlFor("vm_ops");
  const amqpUrl = await vhost.urlAs(loginName("vm-ops"));
  const config = readSettings(settings, {
    ...{ MUSTER_AMQP_URL: amqpUrl, MUSTER_DATABASE_URL: url, MUSTER_VM_QUEUE_TYPE: "classic" },
    ...env,
  });
  const metrics = createMetrics({ service: "vm-ops" });
  const database = await openDatabase({
    ...{ url, schema: "vm_ops", applicationName: "vm-ops-test", poolMax: 6, statementTimeoutMs: 10_000 },
    ...{ logger, metrics },
  });
  const broker = await openBroker({
    ...{ url: amqpUrl, name: "vm-ops", service: "vm-ops", identify, logger, metrics },
    vmQueue: { type: config.MUSTER_VM_QUEUE_TYPE },
  });
  const owned: { close(): Promise<void> }[] = [database, broker];
  await openVmOps({
    ...{ config, database, broker, logger, metrics },
    own: (_name, closeable) => {
      owned.push(closeable);
      return closeable;
    },
  });
  return {
    database,
    broker,
    async close() {
      for (const closeable of owned.reverse()) await closeable.close();
    },
  };
}

export async function setup(o: SetupOptions = {}): Promise<Setup> {
  const [postgres, vhost] = await Promise.all([setupDatabase({ migrations }), setupVhost()]);
  await applyTopology(topologyOf(meshWith({ type: "classic", deliveryLimit: 2, lengthMax: 1_000 })), vhost);
  const service = await openService(postgres, vhost, o.env ?? {});
  const metrics = createMetrics({ service: "test" });
  const peers = new Map<string, Promise<Broker>>();
  const peer = (login: string): Promise<Broker> => {
    const opening =
      peers.get(login) ?? vhost.urlAs(login).then((url) => openBroker({ url, name: login, logger, metrics }));
    peers.set(login, opening);
    return opening;
  };
  const ask: Setup["ask"] = async (contract, payload, { tenant = "acme", role = "admin" } = {}) => {
    const broker = await peer(loginName(contract.callers[0] ?? "gateway"));
    return broker.request(contract, payload, { correlationId: uuidv7(), identity: `${tenant}/${role}` });
  };
  return {
    postgres,
    vhost,
    database: service.database,
    broker: await peer(loginName("gateway")),
    peer,
    ask,
    async vm({ tenant = "acme", concurrency = 1, labels = {} } = {}) {
      const { vm } = await ask(
        vmOpsRequests.registerVm,
        { vm: { name: "web", concurrency, labels } },
        { tenant },
      );
      return vm.vm_uuid;
    },
    async exec(vm_uuid, more = {}) {
      const command = { vm_uuid, action: "exec", params: { program: "true" }, ...more } as const;
      const accepted = await ask(vmOpsRequests.acceptCommand, { command });
      return accepted.command.id;
    },
    sql: (text, values) => service.database.transaction("system", (tx) => tx.query(text, values)),
    replica: () => openService(postgres, vhost, o.env ?? {}),
    async close() {
      for (const one of peers.values()) await (await one).close();
      await service.close();
      await Promise.all([postgres.destroy(), vhost.destroy()]);
    },
  };
}

/** The code of the MusterError that this work ends with; "none" when it does not. */
export async function codeOf(work: Promise<unknown>): Promise<string> {
  return await work.then(
    () => "none",
    (error: unknown) => (error instanceof MusterError ? error.code : String(error)),
  );
}
