import { Pool } from "pg";
import PgBoss from "pg-boss";
import { z } from "zod";
import { poolMax, type Peer } from "./peer.ts";

const queue = "work";
/** It polls, twice a second at most: four loops with batches of fifty are 400 jobs a second by design. */
const loops = 4;
const work = { batchSize: 50, pollingIntervalSeconds: 0.5 };
const done = z.array(z.object({ n: z.coerce.number(), done_ms: z.coerce.number() }));

async function opened(databaseUrl: string): Promise<PgBoss> {
  const boss = new PgBoss({ connectionString: databaseUrl, max: poolMax });
  boss.on("error", (error) => process.stderr.write(`pg-boss: ${String(error)}\n`));
  await boss.start();
  return boss;
}

export function pgBoss(databaseUrl: string): Peer {
  return {
    prepare: async () => {
      const boss = await opened(databaseUrl);
      await boss.createQueue(queue);
      await boss.stop({ graceful: false });
    },
    async openProducer() {
      const boss = await opened(databaseUrl);
      return {
        enqueue: async (job) => {
          await boss.send(queue, job);
        },
        close: () => boss.stop({ graceful: false }),
      };
    },
    async openWorker(onDone) {
      const boss = await opened(databaseUrl);
      const pool = new Pool({ connectionString: databaseUrl, max: 1 });
      for (let n = 0; n < loops; n++) await boss.work(queue, work, () => Promise.resolve());
      return {
        collect: async () => {
          const { rows } =
            await pool.query(`DELETE FROM pgboss.job WHERE name = '${queue}' AND state = 'completed'
            RETURNING data->>'n' AS n, extract(epoch FROM completed_on) * 1000 AS done_ms`);
          for (const { n, done_ms } of done.parse(rows)) onDone(n, done_ms);
        },
        stop: async () => {
          await boss.stop({ graceful: false });
          await pool.end();
        },
      };
    },
  };
}
