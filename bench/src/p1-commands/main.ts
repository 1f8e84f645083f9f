import { setupDatabase } from "@muster/testing/database";
import { setupVhost } from "@muster/testing/vhost";
import { startChild } from "../harness/child.ts";
import { runBenchmark } from "../harness/command.ts";
import { tell, type Sample } from "../harness/figure.ts";
import { openMuster } from "../harness/muster.ts";
import { toggleProfiles } from "../harness/profile.ts";
import { serverVersions } from "../harness/versions.ts";
import type { HttpLoadResult } from "../load/http-load.ts";
import { openRawPipeline } from "../raw-pipeline/open.ts";

/** P1: completed commands a second over the mesh, and accepted a second through the gateway, against the raw pipeline. */
const vms = 64;
const payload = "#".repeat(1_000);
const load = { inFlight: 64, outstandingMax: 1_000 };
const connections = 48;

await runBenchmark("p1-commands", async (_servers, { rounds, seconds, json, log }) => {
  const rawVhost = await setupVhost();
  const rawDatabase = await setupDatabase({ migrations: [] });
  const raw = await openRawPipeline({
    amqpUrl: rawVhost.amqpUrl,
    databaseUrl: rawDatabase.adminUrl,
    queueType: "quorum",
    payload: JSON.stringify({ script: payload }),
    vms,
  });
  const muster = await openMuster({ vms, payload });
  const client = await startChild(new URL("../load/http-load-main.js", import.meta.url), {});
  const completed: Sample[] = [];
  const accepted: Sample[] = [];
  const seen: object[] = [];
  const http = async (front: { url: string; token: string }, bodies: readonly string[]) => {
    const headers = { authorization: `Bearer ${front.token}` };
    const { url } = front;
    return (await client.call("load", { url, bodies, headers, connections, seconds })) as HttpLoadResult;
  };
  try {
    // The first commands find cold caches and plans on both sides.
    await raw.saturate({ ...load, seconds: 2 });
    await muster.saturate({ ...load, seconds: 4 });
    for (let round = 1; round <= rounds; round++) {
      const rawMesh = await raw.saturate({ ...load, seconds });
      toggleProfiles([process.pid, ...muster.pids]);
      const ourMesh = await muster.saturate({ ...load, seconds });
      toggleProfiles([process.pid, ...muster.pids]);
      const rawBodies = Array.from({ length: vms }, (_, vm) =>
        JSON.stringify({ vm, payload: { script: payload } }),
      );
      const rawFront = await http(raw.front, rawBodies);
      const ourFront = await http(muster.front, muster.front.bodies);
      await muster.settled();
      completed.push({ ours: ourMesh.completed, raw: rawMesh.completed });
      accepted.push({ ours: ourFront.perSecond, raw: rawFront.perSecond });
      seen.push({ round, rawMesh, ourMesh, rawFront, ourFront });
      log(`round ${round}: ${JSON.stringify(seen.at(-1))}`);
    }
    await tell(
      {
        benchmark: "P1 commands",
        figures: [
          { name: "completed over the mesh", unit: "/s", goal: { atLeast: 0.6 }, rounds: completed },
          { name: "accepted through the gateway", unit: "/s", goal: { atLeast: 0.6 }, rounds: accepted },
        ],
        observed: {
          vms,
          queueType: "quorum",
          payloadBytes: payload.length,
          ...load,
          connections,
          seconds,
          rounds: seen,
        },
        versions: await serverVersions(muster.database, rawVhost),
      },
      json,
    );
  } finally {
    await client.stop();
    await muster.close();
    await raw.close();
  }
});
