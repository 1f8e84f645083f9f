import { setupDatabase } from "@muster/testing/database";
import { setupVhost } from "@muster/testing/vhost";
import { runBenchmark } from "../harness/command.ts";
import { openRawPipeline } from "./open.ts";

/** The raw pipeline alone: what broker, database and Node can do on this machine. */
await runBenchmark("raw-pipeline", async (_servers, { rounds, seconds, log }) => {
  const { amqpUrl } = await setupVhost();
  const { adminUrl: databaseUrl } = await setupDatabase({ migrations: [] });
  const payload = JSON.stringify({ script: "#".repeat(1_000) });
  const raw = await openRawPipeline({ amqpUrl, databaseUrl, vms: 64, payload, queueType: "quorum" });
  try {
    for (let round = 1; round <= rounds; round++) {
      const { accepted, completed } = await raw.saturate({ inFlight: 64, outstandingMax: 1_000, seconds });
      log(`round ${round}: accepted ${accepted.toFixed(0)} /s, completed ${completed.toFixed(0)} /s`);
    }
  } finally {
    await raw.close();
  }
});
