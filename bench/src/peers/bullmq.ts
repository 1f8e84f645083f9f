import { Queue, Worker } from "bullmq";
import { concurrency, type Job, type Peer } from "./peer.ts";

const queue = "work";

export function bullmq(redisUrl: string): Peer {
  const connection = { url: redisUrl, maxRetriesPerRequest: null };
  return {
    prepare: () => Promise.resolve(),
    openProducer: async () => {
      const jobs = new Queue<Job>(queue, { connection, defaultJobOptions: { removeOnComplete: true } });
      await jobs.waitUntilReady();
      return {
        enqueue: async (job) => {
          await jobs.add("work", job);
        },
        close: () => jobs.close(),
      };
    },
    openWorker: async (onDone, clock) => {
      const worker = new Worker<Job>(queue, () => Promise.resolve(), { connection, concurrency });
      worker.on("completed", (job) => onDone(job.data.n, clock()));
      await worker.waitUntilReady();
      return { stop: () => worker.close() };
    },
  };
}
