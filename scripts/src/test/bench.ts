import { existsSync, mkdtempSync, readdirSync, realpathSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runFolder } from "../run/folder.ts";
import { leftoversOf, stopLeftovers } from "../run/leftovers.ts";
import { removeServerData, startServers } from "../servers/servers.ts";
import type { Servers } from "../servers/servers.ts";
import { lockHolder, takeLock } from "../system/lock.ts";
import type { Lock } from "../system/lock.ts";
import { serveBrokerKeys } from "./broker-keys.ts";
import type { BrokerKeys } from "./broker-keys.ts";
import { processesWith, testRunVariable } from "../system/process-table.ts";
import { stopProcesses } from "../system/wait.ts";

export interface BenchOptions {
  /** Carries the mark of this test run. */
  readonly env: NodeJS.ProcessEnv;
  readonly needsServers: boolean;
  readonly log: (line: string) => void;
  readonly signal: AbortSignal;
}

/** Throw-away servers, and the environment in which tests run. */
export interface Bench extends AsyncDisposable {
  readonly folder: string;
  readonly env: NodeJS.ProcessEnv;
}

const prefix = "muster-test-";

/** What a test run that was killed left behind: its servers, its data. */
async function removeDeadRuns(base: string, log: (line: string) => void): Promise<void> {
  for (const name of readdirSync(base).filter((entry) => entry.startsWith(prefix))) {
    const folder = join(base, name);
    try {
      if (statSync(folder).uid !== process.getuid?.()) continue;
      const locks = [join(folder, "bench.lock"), join(folder, "servers.lock")];
      // Made a moment ago, and its lock comes next: not dead.
      if (!existsSync(join(folder, "bench.lock")) && Date.now() - statSync(folder).mtimeMs < 60_000) continue;
      if (locks.some((lock) => lockHolder(lock) !== undefined)) continue;
      if (leftoversOf(runFolder(folder)).length > 0) await stopLeftovers(runFolder(folder));
      removeServerData(folder);
      log(`removed what an earlier, killed test run left in ${folder}`);
    } catch (error) {
      log(`could not remove ${folder}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
}

/** A vault to run the vaults' tests against, instead of a stand-in. */
const realVault = /^MUSTER_TEST_(VAULT|SUPABASE)_/;

function testEnvironment(
  env: NodeJS.ProcessEnv,
  servers: Servers | undefined,
  keys: BrokerKeys | undefined,
): NodeJS.ProcessEnv {
  const { AMQP_URL: _broker, DATABASE_URL: _database, ...rest } = env;
  // Settings of the caller's own system must not leak into the systems that tests start.
  const clean = Object.entries(rest).filter(
    ([name]) => !name.startsWith("MUSTER_") || name === testRunVariable || realVault.test(name),
  );
  return {
    ...Object.fromEntries(clean),
    // Tests ask git which files there are; the checkout may belong to another user.
    GIT_CONFIG_COUNT: "1",
    GIT_CONFIG_KEY_0: "safe.directory",
    GIT_CONFIG_VALUE_0: "*",
    ...(servers === undefined
      ? {}
      : {
          MUSTER_TEST_AMQP_URL: servers.amqpUrl,
          MUSTER_TEST_MANAGEMENT_URL: servers.managementUrl,
          MUSTER_TEST_DATABASE_URL: servers.databaseUrl,
        }),
    // A broker that was given by its address does not know the key.
    ...(servers?.broker.origin === "private" && keys !== undefined
      ? { MUSTER_TEST_BROKER_KEY: keys.privateKey }
      : {}),
  };
}

async function closeBench(
  folder: string,
  lock: Lock,
  run: string,
  servers: Servers | undefined,
  keys: BrokerKeys | undefined,
): Promise<void> {
  await servers?.stop();
  keys?.close();
  await stopProcesses(processesWith(testRunVariable, run), "SIGTERM", 3_000);
  await stopLeftovers(runFolder(folder));
  lock.release();
  removeServerData(folder);
  rmSync(folder, { recursive: true, force: true });
}

/** Starts throw-away servers in a folder of their own; disposing stops and removes everything that tests started. */
export async function openBench(o: BenchOptions): Promise<Bench> {
  const base = realpathSync(tmpdir());
  await removeDeadRuns(base, o.log);
  const folder = mkdtempSync(join(base, prefix));
  const taken = takeLock(join(folder, "bench.lock"));
  if ("holder" in taken) throw new Error(`${folder} is in use by pid ${taken.holder.pid}`);
  const run = o.env[testRunVariable] ?? "";
  let servers: Servers | undefined;
  let keys: BrokerKeys | undefined;
  try {
    const { env, log, signal } = o;
    if (o.needsServers) {
      keys = await serveBrokerKeys();
      const brokerKeysUrl = keys.url;
      servers = await startServers({ folder, durable: false, log, env, signal, brokerKeysUrl });
    }
  } catch (error) {
    await closeBench(folder, taken.lock, run, undefined, keys);
    throw error;
  }
  return {
    folder,
    env: testEnvironment(o.env, servers, keys),
    [Symbol.asyncDispose]: () => closeBench(folder, taken.lock, run, servers, keys),
  };
}
