import { EventEmitter } from "node:events";
import { Logger, makeWorkerUtils, run, runMigrations, type WorkerEvents } from "graphile-worker";
import { Pool } from "pg";
import { concurrency, poolMax, type Job, type Peer } from "./peer.ts";

const logger = new Logger(() => () => undefined);

export function graphileWorker(databaseUrl: string): Peer {
  return {
    prepare: async () => {
      const pgPool = new Pool({ connectionString: databaseUrl, max: 2 });
      await runMigrations({ pgPool, logger });
      await pgPool.end();
    },
    async openProducer() {
      const pgPool = new Pool({ connectionString: databaseUrl, max: poolMax });
      const utils = await makeWorkerUtils({ pgPool, logger });
      return {
        enqueue: async (job) => {
          await utils.addJob("work", job);
        },
        close: async () => {
          await utils.release();
          await pgPool.end();
        },
      };
    },
    async openWorker(onDone, clock) {
      const pgPool = new Pool({ connectionString: databaseUrl, max: poolMax });
      const events: WorkerEvents = new EventEmitter();
      events.on("job:complete", ({ job, error }) => {
        if (error === null || error === undefined) onDone((job.payload as Job).n, clock());
      });
      const taskList = { work: () => Promise.resolve() };
      const runner = await run({ pgPool, concurrency, logger, events, taskList, noHandleSignals: true });
      return {
        stop: async () => {
          await runner.stop();
          await pgPool.end();
        },
      };
    },
  };
}
