import { chmodSync, mkdirSync, realpathSync, rmSync } from "node:fs";
import { join } from "node:path";
import { markerOf } from "../system/files.ts";
import { takeLock } from "../system/lock.ts";
import { placeOf } from "./accounts.ts";
import { defaultRoots } from "./binaries.ts";
import type { SearchRoots } from "./binaries.ts";
import { chooseServers, cleanEnvironment } from "./choose.ts";
import type { BrokerServer } from "./rabbitmq.ts";
import type { Server } from "./server.ts";

export interface StartServersOptions {
  /** Holds the data, the ports, the passwords and the logs of this pair of servers. */
  readonly folder: string;
  /** False: the database may lose data when the machine stops; for tests only. */
  readonly durable: boolean;
  readonly log: (line: string) => void;
  /** AMQP_URL, MUSTER_MANAGEMENT_URL, DATABASE_URL and PATH are read from it; nothing from the process by itself. */
  readonly env?: NodeJS.ProcessEnv;
  readonly signal?: AbortSignal | undefined;
  /** Where a broker of our own gets the keys that verify agents' tokens: the gateway's /.well-known/broker-jwks.json. */
  readonly brokerKeysUrl?: string | undefined;
  readonly roots?: SearchRoots;
}

export interface Servers {
  readonly amqpUrl: string;
  readonly managementUrl: string;
  /** Of an administrator who may create roles and databases. */
  readonly databaseUrl: string;
  readonly broker: BrokerServer;
  readonly database: Server;
  restartBroker(): Promise<void>;
  killBroker(signal: NodeJS.Signals): Promise<void>;
  restartDatabase(): Promise<void>;
  killDatabase(signal: NodeJS.Signals): Promise<void>;
  /** Idempotent; afterwards no process and no port of these servers is left. */
  stop(): Promise<void>;
}

/** Makes the folder; as root it must let the database's own user through to its data. */
function prepareFolder(folder: string): string {
  mkdirSync(folder, { recursive: true });
  chmodSync(folder, process.getuid?.() === 0 ? 0o711 : 0o700);
  mkdirSync(join(folder, "logs"), { recursive: true, mode: 0o700 });
  return realpathSync(folder);
}

async function startBoth(broker: BrokerServer, database: Server): Promise<void> {
  const outcomes = await Promise.allSettled([broker.start(), database.start()]);
  const failed = outcomes.find((outcome) => outcome.status === "rejected");
  if (failed === undefined) return;
  await stopBoth(broker, database);
  throw failed.reason;
}

async function stopBoth(broker: BrokerServer, database: Server): Promise<void> {
  await Promise.all([broker.stop(), database.stop()]);
}

/** Finds, installs if need be, and starts a broker and a database. Resolves when both answer. */
export async function startServers(o: StartServersOptions): Promise<Servers> {
  const folder = prepareFolder(o.folder);
  const taken = takeLock(join(folder, "servers.lock"));
  if ("holder" in taken) {
    throw new Error(
      `the servers in ${folder} belong to pid ${taken.holder.pid}; stop it first: ./scripts/run --stop`,
    );
  }
  const env = o.env ?? { PATH: process.env["PATH"] };
  const roots = o.roots ?? defaultRoots(env);
  const cleanEnv = cleanEnvironment(roots, env);
  const { durable, log, signal, brokerKeysUrl } = o;
  try {
    const plan = {
      folder,
      marker: markerOf(folder),
      durable,
      roots,
      env,
      cleanEnv,
      log,
      signal,
      brokerKeysUrl,
    };
    const { broker, database } = await chooseServers(plan);
    await startBoth(broker, database);
    let stopped: Promise<void> | undefined;
    return {
      amqpUrl: broker.url,
      managementUrl: broker.managementUrl,
      databaseUrl: database.url,
      broker,
      database,
      restartBroker: async () => {
        await broker.stop();
        await broker.start();
      },
      killBroker: (name) => broker.kill(name),
      restartDatabase: async () => {
        await database.stop();
        await database.start();
      },
      killDatabase: (name) => database.kill(name),
      stop: () => (stopped ??= stopBoth(broker, database).finally(() => taken.lock.release())),
    };
  } catch (error) {
    taken.lock.release();
    throw error;
  }
}

/** Removes the data of stopped servers, also those that had to be put elsewhere. */
export function removeServerData(folder: string): void {
  const place = placeOf(folder);
  if (place !== undefined && place !== folder) rmSync(place, { recursive: true, force: true });
  rmSync(folder, { recursive: true, force: true });
}
