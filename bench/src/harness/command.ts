import { mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { removeServerData, startServers, type Servers } from "@muster/scripts/servers/servers";

export interface BenchmarkOptions {
  /** At least 3 for a figure that is quoted. */
  readonly rounds: number;
  /** Length of one measurement. */
  readonly seconds: number;
  readonly json: string;
  /** The benchmark's own options, as given or by default. */
  readonly own: Readonly<Record<string, number>>;
  readonly log: (line: string) => void;
}

/**
 * Reads the options of a benchmark, gives it a broker and a database that keep what they confirm, and ends them.
 * `own` are numbers of this benchmark alone, with their defaults: `{ vms: 10_000 }` makes `--vms 500` possible.
 */
export async function runBenchmark(
  name: string,
  work: (servers: Servers, options: BenchmarkOptions) => Promise<void>,
  own: Readonly<Record<string, number>> = {},
): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "3" },
      seconds: { type: "string", default: "8" },
      json: { type: "string", default: join(tmpdir(), `muster-bench-${name}.json`) },
      ...Object.fromEntries(
        Object.entries(own).map(([key, value]) => [key, { type: "string", default: String(value) }] as const),
      ),
    },
  });
  const given: Readonly<Record<string, unknown>> = values;
  const log = (line: string): void => void process.stderr.write(`${line}\n`);
  const folder = await mkdtemp(join(tmpdir(), `muster-bench-${name}-`));
  const servers = await startServers({ folder, durable: true, log });
  // The fixtures of the tests (a vhost, a database) are made on these servers.
  process.env.MUSTER_TEST_AMQP_URL = servers.amqpUrl;
  process.env.MUSTER_TEST_MANAGEMENT_URL = servers.managementUrl;
  process.env.MUSTER_TEST_DATABASE_URL = servers.databaseUrl;
  const stop = async (): Promise<void> => {
    await servers.stop();
    removeServerData(folder);
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () => {
      void stop()
        .then(endChildren)
        .finally(() => process.exit(130));
    });
  }
  try {
    await work(servers, {
      rounds: Number(values.rounds),
      seconds: Number(values.seconds),
      json: values.json,
      own: Object.fromEntries(Object.keys(own).map((key) => [key, Number(given[key])])),
      log,
    });
  } finally {
    await stop().finally(endChildren);
  }
}

/** What the benchmark had started must not outlive it. */
async function endChildren(): Promise<void> {
  const children = await readFile(`/proc/${process.pid}/task/${process.pid}/children`, "utf8");
  for (const pid of children.trim().split(/\s+/).filter(Boolean)) process.kill(Number(pid), "SIGTERM");
}
