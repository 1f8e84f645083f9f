import { join } from "node:path";
import { probeDatabase } from "@muster/database/probe";
import { testRunVariable } from "../system/process-table.ts";
import { databaseAccount, placeFor } from "./accounts.ts";
import { findPostgres, findRabbit } from "./binaries.ts";
import type { SearchRoots } from "./binaries.ts";
import { hasContainerEngine, openContainers } from "./containers.ts";
import { externalBroker, externalDatabase, withoutPassword } from "./external.ts";
import { canInstall, installPackages } from "./install.ts";
import { dataMajor, openPrivatePostgres } from "./postgres.ts";
import { openPrivateRabbit } from "./rabbitmq.ts";
import type { BrokerServer } from "./rabbitmq.ts";
import { openSecrets } from "./secrets.ts";
import type { Server } from "./server.ts";

const repositoryRoot = join(import.meta.dirname, "..", "..", "..", "..");
const titles = { broker: "RabbitMQ", database: "PostgreSQL" } as const;
const packages = { broker: "rabbitmq-server", database: "postgresql" } as const;

interface Pair {
  broker: BrokerServer | undefined;
  database: Server | undefined;
}

export interface Plan {
  readonly folder: string;
  readonly marker: string;
  readonly durable: boolean;
  readonly roots: SearchRoots;
  /** The caller's. */
  readonly env: NodeJS.ProcessEnv;
  /** The whole environment of what we start, before its own settings. */
  readonly cleanEnv: NodeJS.ProcessEnv;
  readonly log: (line: string) => void;
  readonly signal?: AbortSignal | undefined;
  readonly brokerKeysUrl?: string | undefined;
}

/** Nothing of the caller's environment reaches a server, but the mark of a test run. */
export function cleanEnvironment(roots: SearchRoots, env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const run = env[testRunVariable];
  return {
    PATH: roots.path.join(":"),
    LANG: "C.UTF-8",
    ...(run === undefined ? {} : { [testRunVariable]: run }),
  };
}

function fromEnvironment(plan: Plan): Pair {
  const { env, log } = plan;
  const pair: Pair = { broker: undefined, database: undefined };
  if (env["AMQP_URL"]) {
    pair.broker = externalBroker(env["AMQP_URL"], env["MUSTER_MANAGEMENT_URL"]);
    log(`RabbitMQ: using AMQP_URL ${withoutPassword(env["AMQP_URL"])}`);
  }
  if (env["DATABASE_URL"]) {
    pair.database = externalDatabase(env["DATABASE_URL"], probeDatabase);
    log(`PostgreSQL: using DATABASE_URL ${withoutPassword(env["DATABASE_URL"])}`);
  }
  return pair;
}

async function installedBroker(plan: Plan): Promise<BrokerServer | undefined> {
  const binaries = findRabbit(plan.roots);
  if (binaries === undefined) return undefined;
  const { log, signal } = plan;
  const root = join(plan.folder, "rabbitmq");
  log(`RabbitMQ: private instance of ${binaries.server} (${binaries.version}) in ${root}`);
  const password = openSecrets(join(plan.folder, "secrets.json")).get("broker");
  const templates = join(repositoryRoot, "infra", "rabbitmq");
  const { folder, marker, cleanEnv: env, brokerKeysUrl } = plan;
  return openPrivateRabbit({
    folder,
    marker,
    binaries,
    password,
    brokerKeysUrl,
    templates,
    env,
    log,
    signal,
  });
}

async function installedDatabase(plan: Plan): Promise<Server | undefined> {
  if (findPostgres(plan.roots) === undefined) return undefined;
  const account = databaseAccount();
  const place = placeFor(plan.folder, account);
  const { log, signal, durable } = plan;
  const binaries = findPostgres(plan.roots, dataMajor(join(place, "postgres", "data")));
  if (binaries === undefined) return undefined;
  const as = account === undefined ? "" : ` as user ${account.name}`;
  log(`PostgreSQL: private instance of ${binaries.folder} in ${join(place, "postgres")}${as}`);
  const secrets = openSecrets(join(plan.folder, "secrets.json"));
  const password = secrets.get("database");
  return openPrivatePostgres({
    folder: place,
    logFolder: join(plan.folder, "logs"),
    marker: plan.marker,
    binaries,
    account,
    password,
    passwordIsNew: secrets.isNew("database"),
    durable,
    env: plan.cleanEnv,
    log,
    signal,
  });
}

async function completeWithInstalled(plan: Plan, pair: Pair): Promise<void> {
  pair.broker ??= await installedBroker(plan);
  pair.database ??= await installedDatabase(plan);
}

function missingOf(pair: Pair): ("broker" | "database")[] {
  return (["broker", "database"] as const).filter((part) => pair[part] === undefined);
}

const howToGetThem = `There are four ways, in this order:
  1. give the address of servers that run: AMQP_URL=amqp://user:password@host:5672 DATABASE_URL=postgres://user:password@host:5432/database
  2. install them, they need not run: RabbitMQ (https://www.rabbitmq.com/docs/download) and PostgreSQL 14 or newer (https://www.postgresql.org/download)
  3. on Debian or Ubuntu, run this once as root and it installs them: apt-get install rabbitmq-server postgresql
  4. start a Docker engine with the compose plugin: they then run as containers of docker-compose.yml`;

/** An installation that fails is not the end: a container engine may be there. */
async function tryInstall(plan: Plan, wanted: readonly string[]): Promise<void> {
  const logFile = join(plan.folder, "logs", "install.log");
  try {
    await installPackages(wanted, { env: plan.cleanEnv, logFile, signal: plan.signal });
  } catch (error) {
    plan.signal?.throwIfAborted();
    plan.log(error instanceof Error ? error.message : String(error));
  }
}

/** Finds or installs a broker and a database, in the order above, and says on one line each what was chosen. */
export async function chooseServers(plan: Plan): Promise<{ broker: BrokerServer; database: Server }> {
  const pair = fromEnvironment(plan);
  await completeWithInstalled(plan, pair);
  const wanted = missingOf(pair).map((part) => packages[part]);
  if (wanted.length > 0 && canInstall()) {
    plan.log(`installing ${wanted.join(" and ")} with apt-get`);
    await tryInstall(plan, wanted);
    await completeWithInstalled(plan, pair);
  }
  if (missingOf(pair).length > 0 && (await hasContainerEngine(plan.env, plan.signal))) {
    const { folder, marker, env, signal } = plan;
    const secrets = openSecrets(join(folder, "secrets.json"));
    const passwords = { broker: secrets.get("broker"), database: secrets.get("database") };
    const containers = await openContainers({ folder, marker, passwords, env, signal });
    for (const part of missingOf(pair)) plan.log(`${titles[part]}: container of docker-compose.yml`);
    pair.broker ??= containers.broker;
    pair.database ??= containers.database;
  }
  const { broker, database } = pair;
  if (broker === undefined || database === undefined) {
    const names = missingOf(pair).map((part) => titles[part]);
    throw new Error(`${names.join(" and ")} were not found and could not be installed. ${howToGetThem}`);
  }
  return { broker, database };
}
