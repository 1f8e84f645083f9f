import { z } from "zod";
import { openClock } from "../harness/clock.ts";
import { serveParent } from "../harness/child.ts";
import { closedLoop, openLoop } from "../harness/load.ts";
import { bullmq } from "./bullmq.ts";
import { graphileWorker } from "./graphile-worker.ts";
import { pgBoss } from "./pg-boss.ts";

/** One side of a peer, in a process of its own. */
const { MUSTER_BENCH_PEER: name, MUSTER_BENCH_ROLE: role, MUSTER_BENCH_URL: url = "" } = process.env;
const peer = name === "bullmq" ? bullmq(url) : name === "pg-boss" ? pgBoss(url) : graphileWorker(url);
const payload = "#".repeat(1_000);

const paceArguments = z.object({ rate: z.number(), seconds: z.number(), from: z.number() });
const fillArguments = z.object({ count: z.number(), from: z.number() });

async function produce(): Promise<void> {
  await peer.prepare();
  const producer = await peer.openProducer();
  serveParent({
    pace: async (argument) => {
      const { rate, seconds, from } = paceArguments.parse(argument);
      const clock = openClock();
      const asked: [number, number][] = [];
      await openLoop({ rate, seconds }, async (at) => {
        asked.push([from + at, clock()]);
        await producer.enqueue({ n: from + at, payload });
      });
      return asked;
    },
    fill: async (argument) => {
      const { count, from } = fillArguments.parse(argument);
      let left = count;
      await closedLoop({ inFlight: 50, seconds: 60, until: () => left <= 0 }, async (at) => {
        left -= 1;
        await producer.enqueue({ n: from + at, payload });
      });
    },
  });
}

function work(): void {
  let done: [number, number][] = [];
  let worker: Awaited<ReturnType<typeof peer.openWorker>> | undefined;
  serveParent({
    start: async () => {
      worker = await peer.openWorker((n, doneMs) => done.push([n, doneMs]), openClock());
    },
    /** What was done since the last call: number and wall time. */
    done: async () => {
      await worker?.collect?.();
      const taken = done;
      done = [];
      return taken;
    },
    stop: async () => {
      await worker?.stop();
      worker = undefined;
    },
  });
}

if (role === "producer") await produce();
else work();
