import { openOutboxRelay } from "../src/outbox.ts";
import { createMetrics } from "@muster/telemetry/metrics";
import { openDatabase } from "../src/database.ts";
import { logger, message, schema } from "./things.ts";

/** A process of its own that commits messages and never gets to publish them: for tests that kill it. */
const [url, ...ids] = process.argv.slice(2);
const metrics = createMetrics({ service: "dying" });
const database = await openDatabase({
  url: url ?? "",
  schema,
  applicationName: "dying",
  poolMax: 2,
  statementTimeoutMs: 5_000,
  logger,
  metrics,
});
await openOutboxRelay({
  database,
  publish: () => new Promise(() => undefined),
  logger,
  metrics,
  graceMs: 300,
});
await database.transaction({ tenants: ["acme"] }, async (tx) => {
  for (const id of ids) tx.publish(message({ id, orderingKey: "crash" }));
});
process.stdout.write("committed\n");
