import { connect } from "amqplib";
import { z } from "zod";
import { startChild, type Child } from "../harness/child.ts";
import { requestsQueue, resultsQueue, vmQueueOf } from "./dispatcher.ts";
import { makeRawTables } from "./tables.ts";

const rates = z.object({ accepted: z.number(), completed: z.number() });
const counts = z.object({ accepted: z.number(), completed: z.number() });
const asked = z.array(z.tuple([z.string(), z.number()]));

export interface RawPipeline {
  /** Accepted and completed in a second with so many callers, no more than `outstandingMax` under way. */
  saturate(o: { inFlight: number; outstandingMax: number; seconds: number }): Promise<z.infer<typeof rates>>;
  /** At a fixed rate; the wall time in milliseconds at which each was asked for, by id. Resolves when all are done. */
  pace(o: { rate: number; seconds: number }): Promise<z.infer<typeof asked>>;
  counts(): Promise<z.infer<typeof counts>>;
  readonly front: { readonly url: string; readonly token: string; readonly pid: number };
  readonly pids: readonly number[];
  close(): Promise<void>;
}

/** The practical limit of broker, database and Node on this machine: two processes, and one of Express before them. */
export async function openRawPipeline(o: {
  amqpUrl: string;
  /** Of an empty database. */
  databaseUrl: string;
  vms: number;
  payload: string;
  queueType: "quorum" | "classic";
}): Promise<RawPipeline> {
  await makeRawTables(o.databaseUrl);
  await makeQueues(o.amqpUrl, o.vms, o.queueType);
  const env = {
    MUSTER_BENCH_AMQP_URL: o.amqpUrl,
    MUSTER_BENCH_DATABASE_URL: o.databaseUrl,
    MUSTER_BENCH_VMS: String(o.vms),
  };
  const started: Child[] = [];
  const start = async (program: string): Promise<Child> => {
    const child = await startChild(new URL(program, import.meta.url), env);
    started.push(child);
    return child;
  };
  const close = async (): Promise<void> => {
    await Promise.all(started.map((child) => child.stop()));
  };
  try {
    const dispatcher = await start("./dispatcher-main.js");
    await start("./agent-main.js");
    const front = await start("./front-main.js");
    const where = z.object({ port: z.number(), token: z.string() }).parse(await front.call("where"));
    const given = { vms: o.vms, payload: o.payload };
    return {
      saturate: async (run) => rates.parse(await dispatcher.call("saturate", { ...given, ...run })),
      pace: async (run) => asked.parse(await dispatcher.call("pace", { ...given, ...run })),
      counts: async () => counts.parse(await dispatcher.call("counts")),
      front: { url: `http://127.0.0.1:${where.port}/commands`, token: where.token, pid: front.pid },
      pids: started.map((child) => child.pid),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function makeQueues(amqpUrl: string, vms: number, queueType: string): Promise<void> {
  const model = await connect(amqpUrl);
  const channel = await model.createChannel();
  const queues = [resultsQueue, requestsQueue, ...Array.from({ length: vms }, (_, vm) => vmQueueOf(vm))];
  for (const queue of queues) {
    await channel.assertQueue(queue, { durable: true, arguments: { "x-queue-type": queueType } });
  }
  await model.close();
}
