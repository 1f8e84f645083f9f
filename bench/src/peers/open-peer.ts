import { z } from "zod";
import { startChild } from "../harness/child.ts";
import { pass } from "../harness/clock.ts";

export type PeerName = "graphile-worker" | "pg-boss" | "bullmq";

const times = z.array(z.tuple([z.number(), z.number()]));

export interface OpenPeer {
  /** Milliseconds from before the enqueueing of each job to its being done. */
  pace(o: { rate: number; seconds: number }): Promise<number[]>;
  /** Done in a second while it works off what was enqueued before. */
  drain(count: number): Promise<number>;
  close(): Promise<void>;
}

const giveUpMs = 20_000;

/** A producer and a worker of the peer, each a process. */
export async function openPeer(name: PeerName, url: string): Promise<OpenPeer> {
  const env = { MUSTER_BENCH_PEER: name, MUSTER_BENCH_URL: url, NODE_ENV: "production" };
  const program = new URL("./peer-main.js", import.meta.url);
  const producer = await startChild(program, { ...env, MUSTER_BENCH_ROLE: "producer" });
  const worker = await startChild(program, { ...env, MUSTER_BENCH_ROLE: "worker" });
  await worker.call("start");
  let next = 0;

  /** Waits for so many jobs; a peer that does not get there tells what it did by then. */
  async function waitFor(count: number): Promise<[number, number][]> {
    const done: [number, number][] = [];
    const untilMs = performance.now() + giveUpMs;
    while (done.length < count && performance.now() < untilMs) {
      done.push(...times.parse(await worker.call("done")));
      if (done.length < count) await pass(50);
    }
    return done;
  }
  return {
    pace: async ({ rate, seconds }) => {
      const asked = times.parse(await producer.call("pace", { rate, seconds, from: next }));
      next += asked.length;
      const doneAt = new Map(await waitFor(asked.length));
      return asked.flatMap(([n, askedMs]) => {
        const doneMs = doneAt.get(n);
        return doneMs === undefined ? [] : [doneMs - askedMs];
      });
    },
    drain: async (count) => {
      await worker.call("stop");
      await producer.call("fill", { count, from: next });
      next += count;
      await worker.call("start");
      return rateOf((await waitFor(count)).map(([, doneMs]) => doneMs));
    },
    close: async () => {
      await worker.stop();
      await producer.stop();
    },
  };
}

/** A second's worth of these moments, without the first and last tenth, where there is less to do. */
export function rateOf(momentsMs: readonly number[]): number {
  const sorted = [...momentsMs].sort((a, b) => a - b);
  const first = Math.floor(sorted.length * 0.1);
  const last = Math.max(first, Math.ceil(sorted.length * 0.9) - 1);
  const took = (sorted[last] ?? 0) - (sorted[first] ?? 0);
  return took <= 0 ? 0 : ((last - first) * 1_000) / took;
}
