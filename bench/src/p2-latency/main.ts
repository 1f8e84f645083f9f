import { setupDatabase } from "@muster/testing/database";
import { setupVhost } from "@muster/testing/vhost";
import { Pool } from "pg";
import { runBenchmark } from "../harness/command.ts";
import { percentile, tell, type Figure, type Sample } from "../harness/figure.ts";
import { openMuster } from "../harness/muster.ts";
import { serverVersions } from "../harness/versions.ts";
import { openPeer, type OpenPeer, type PeerName } from "../peers/open-peer.ts";
import { startRedis } from "../peers/redis.ts";
import { openRawPipeline } from "../raw-pipeline/open.ts";
import { committedAt } from "./committed.ts";

/** P2: from asking for a command to its committed result at fixed rates, against the raw pipeline and durable queues. */
const vms = 64;
const payload = "#".repeat(1_000);
const slow = 100;
const fast = 500;
const load = { inFlight: 64, outstandingMax: 1_000 };
const drained = 5_000;

interface Seen {
  readonly slow: readonly number[];
  readonly fast: readonly number[];
  /** Completed in a second. */
  readonly rate: number;
}

interface Subject {
  pace(o: { rate: number; seconds: number }): Promise<readonly number[]>;
  rate(): Promise<number>;
}

const half = (values: readonly number[]): number => percentile(values, 0.5);
const worst = (values: readonly number[]): number => percentile(values, 0.99);

/** What is compared, with whom, and how it should be. */
const compared: readonly [other: string, what: string, of: (seen: Seen) => number, goal: Figure["goal"]][] = [
  ["raw", "p50 at 100/s", (one) => half(one.slow), { atMost: 2 }],
  ["raw", "p50 at 500/s", (one) => half(one.fast), { atMost: 2 }],
  ["raw", "p99 at 100/s", (one) => worst(one.slow), { atMost: 3 }],
  ["raw", "p99 at 500/s", (one) => worst(one.fast), { atMost: 3 }],
  ["graphile-worker", "completed", (one) => one.rate, { atLeast: 1.2 }],
  ["graphile-worker", "p99 at 500/s", (one) => worst(one.fast), { atMost: 0.5 }],
  ["bullmq", "completed", (one) => one.rate, { atLeast: 0.3 }],
  ["bullmq", "p50 at 500/s", (one) => half(one.fast), { atMost: 2.5 }],
];

await runBenchmark("p2-latency", async (servers, { rounds, seconds, json, log }) => {
  await keepCommitTimes(servers);
  const redis = await startRedis();
  const rawVhost = await setupVhost();
  const rawUrl = (await setupDatabase({ migrations: [] })).adminUrl;
  const raw = await openRawPipeline({
    amqpUrl: rawVhost.amqpUrl,
    databaseUrl: rawUrl,
    queueType: "quorum",
    payload: JSON.stringify({ text: payload }),
    vms,
  });
  const muster = await openMuster({ vms, payload });
  const rawDatabase = new Pool({ connectionString: rawUrl, max: 1 });
  const closers: (() => Promise<void>)[] = [];
  const peer = async (name: PeerName, url: string): Promise<Subject> => {
    const opened: OpenPeer = await openPeer(name, url);
    closers.push(opened.close);
    return { pace: opened.pace, rate: () => opened.drain(name === "pg-boss" ? 1_000 : drained) };
  };
  const emptyDatabase = async (): Promise<string> => (await setupDatabase({ migrations: [] })).adminUrl;
  try {
    const subjects: Record<string, Subject> = {
      raw: {
        pace: async (o) =>
          latencies(await raw.pace(o), await committedAt(rawDatabase, "raw_commands", "status = 'done'")),
        rate: async () => (await raw.saturate({ ...load, seconds })).completed,
      },
      ours: {
        pace: async (o) =>
          latencies(await muster.pace(o), await committedAt(muster.database, "commands", "phase = 'ended'")),
        rate: async () => (await muster.saturate({ ...load, seconds })).completed,
      },
      "graphile-worker": await peer("graphile-worker", await emptyDatabase()),
      bullmq: await peer("bullmq", redis.url),
      "pg-boss": await peer("pg-boss", await emptyDatabase()),
    };
    const seen: Record<string, Seen>[] = [];
    for (const subject of ["raw", "ours"]) await subjects[subject]?.rate();
    for (let round = 1; round <= rounds; round++) {
      const inRound: Record<string, Seen> = {};
      for (const [name, subject] of Object.entries(subjects)) {
        // It polls: a figure of its settings, said once and held against nothing.
        if (name === "pg-boss" && round > 1) continue;
        inRound[name] = {
          slow: await subject.pace({ rate: slow, seconds }),
          fast: await subject.pace({ rate: fast, seconds }),
          rate: await subject.rate(),
        };
        log(`round ${round} ${name}: ${JSON.stringify(inShort(inRound[name]))}`);
      }
      seen.push(inRound);
    }
    await tell(
      {
        benchmark: "P2 latency",
        figures: figuresOf(seen),
        observed: {
          vms,
          queueType: "quorum",
          payloadBytes: payload.length,
          seconds,
          ...load,
          drained,
          rounds: seen.map(shortRound),
        },
        versions: {
          ...(await serverVersions(muster.database, rawVhost)),
          Redis: redis.version,
          "graphile-worker": "0.17.3",
          "pg-boss": "10.4.2",
          BullMQ: "6.7.0",
        },
      },
      json,
    );
  } finally {
    for (const close of closers) await close();
    await muster.close();
    await raw.close();
    await rawDatabase.end();
    await redis.stop();
  }
});

/** When the database committed a result is what ends the clock, on both sides alike. */
async function keepCommitTimes(servers: { databaseUrl: string; restartDatabase(): Promise<void> }) {
  const pool = new Pool({ connectionString: servers.databaseUrl, max: 1 });
  await pool.query("ALTER SYSTEM SET track_commit_timestamp = on");
  await pool.end();
  await servers.restartDatabase();
}

function latencies(
  asked: readonly (readonly [string, number])[],
  committed: ReadonlyMap<string, number>,
): number[] {
  return asked.map(([id, askedMs]) => {
    const endedMs = committed.get(id);
    if (endedMs === undefined) throw new Error(`${id} has no result`);
    return endedMs - askedMs;
  });
}

function figuresOf(seen: readonly Record<string, Seen>[]): Figure[] {
  return compared.map(([other, what, of, goal]) => ({
    name: `${what}, ${other}`,
    unit: what === "completed" ? "/s" : "ms",
    goal,
    rounds: seen.map((round): Sample => ({ ours: of(round["ours"]!), raw: of(round[other]!) })),
  }));
}

function inShort({ slow: atSlow, fast: atFast, rate }: Seen) {
  const short = (values: readonly number[]) => ({
    count: values.length,
    p50: Number(half(values).toFixed(2)),
    p99: Number(worst(values).toFixed(2)),
  });
  return {
    [`at ${slow}/s`]: short(atSlow),
    [`at ${fast}/s`]: short(atFast),
    completedPerSecond: Math.round(rate),
  };
}

function shortRound(round: Record<string, Seen>) {
  return Object.fromEntries(Object.entries(round).map(([name, one]) => [name, inShort(one)]));
}
