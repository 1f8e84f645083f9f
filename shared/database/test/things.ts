import { fileURLToPath } from "node:url";
import { uuidv7 } from "@muster/contracts/ids";
import type { PreparedMessage, PublishVerdict } from "@muster/contracts/message";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { setupDatabase } from "@muster/testing/database";
import { openAdmin } from "../src/admin.ts";
import { openDatabase, type Database, type DatabaseOptions } from "../src/database.ts";
import { openOutboxRelay, type OutboxRelay, type OutboxRelayOptions } from "../src/outbox.ts";

export const schema = "things";
export const directory = fileURLToPath(new URL("../../test/migrations/", import.meta.url));
export const logger = openLogger({ service: "database-test", level: "silent" });

/** A migrated database, and what opens pools and relays on it; all of it goes with `destroy`. */
export async function setup() {
  const base = await setupDatabase({ migrations: [{ schema, directory }] });
  const admin = await openAdmin(base.adminUrl);
  await admin.run(`SET search_path TO ${schema}`);
  const opened: { close(): Promise<void> }[] = [];

  async function open(options: Partial<DatabaseOptions> = {}): Promise<Database> {
    const database = await openDatabase({
      url: base.urlFor(schema),
      schema,
      applicationName: "things",
      poolMax: 5,
      statementTimeoutMs: 5_000,
      logger,
      metrics: createMetrics({ service: "things" }),
      ...options,
    });
    opened.push(database);
    return database;
  }
  return {
    base,
    admin,
    open,
    async relay(
      database: Database,
      options: Partial<OutboxRelayOptions> & Pick<OutboxRelayOptions, "publish">,
    ) {
      const relay: OutboxRelay = await openOutboxRelay({
        database,
        logger,
        metrics: createMetrics({ service: "things" }),
        pollMs: 50,
        graceMs: 300,
        ...options,
      });
      opened.push(relay);
      return relay;
    },
    async outboxIds(): Promise<string[]> {
      const rows = await admin.query<{ message_id: string }>("SELECT message_id FROM outbox ORDER BY id");
      return rows.map((row) => row.message_id);
    },
    async destroy() {
      for (const one of opened.reverse()) await one.close();
      await admin.close();
      await base.destroy();
    },
  };
}

export type Setup = Awaited<ReturnType<typeof setup>>;

export function message(o: Partial<PreparedMessage> = {}): PreparedMessage {
  const id = o.id ?? uuidv7();
  return {
    id,
    type: "things.thing.made.v1",
    exchange: "muster.things.events",
    routingKey: "things.thing.made.v1",
    orderingKey: null,
    tenantId: "acme",
    body: JSON.stringify({ id, note: `it's a "quote", a back\\slash and a $1` }),
    headers: { cloudEvents_id: id },
    ...o,
  };
}

export const routed: PublishVerdict = { kind: "routed" };

/** Publishes a message in a transaction of its own tenant. */
export function publishOne(database: Database, one: PreparedMessage): Promise<void> {
  return database.transaction({ tenants: [one.tenantId ?? "acme"] }, async (tx) => tx.publish(one));
}
