import { join } from "node:path";
import { z } from "zod";
import { mustRun, runCommand } from "../system/child.ts";
import { readJson, writeJson } from "../system/files.ts";
import { choosePorts } from "../system/ports.ts";
import { brokerUser } from "./rabbit-files.ts";
import type { BrokerServer } from "./rabbitmq.ts";
import type { Server } from "./server.ts";

export interface ContainerOptions {
  readonly folder: string;
  readonly marker: string;
  readonly passwords: { readonly broker: string; readonly database: string };
  readonly env: NodeJS.ProcessEnv;
  readonly signal?: AbortSignal | undefined;
}

const portNames = ["rabbitmq", "management", "prometheus", "postgres"] as const;
const portSchema = z.number().int().min(1).max(65_535);
const stateSchema = z.object({
  rabbitmq: portSchema,
  management: portSchema,
  prometheus: portSchema,
  postgres: portSchema,
});
const composeFile = join(import.meta.dirname, "..", "..", "..", "..", "docker-compose.yml");
const startTimeoutMs = 600_000;

/** A client alone proves nothing: the engine and the compose plugin must answer. */
export async function hasContainerEngine(env: NodeJS.ProcessEnv, signal?: AbortSignal): Promise<boolean> {
  const options = { env, timeoutMs: 10_000, signal };
  const answers = async (args: readonly string[]): Promise<boolean> => {
    try {
      return (await runCommand("docker", args, options)).code === 0;
    } catch (error) {
      if (signal?.aborted === true) throw error;
      return false;
    }
  };
  return (
    (await answers(["version", "--format", "{{.Server.Version}}"])) && (await answers(["compose", "version"]))
  );
}

export interface Containers {
  readonly broker: BrokerServer;
  readonly database: Server;
}

/** RabbitMQ and PostgreSQL as containers of docker-compose.yml, with the ports of this folder; not started yet. */
export async function openContainers(o: ContainerOptions): Promise<Containers> {
  const statePath = join(o.folder, "containers.json");
  const ports = await choosePorts(portNames, readJson(statePath, stateSchema) ?? {});
  writeJson(statePath, ports);
  const env = {
    ...o.env,
    MUSTER_RABBITMQ_PORT: String(ports.rabbitmq),
    MUSTER_RABBITMQ_MANAGEMENT_PORT: String(ports.management),
    MUSTER_RABBITMQ_PROMETHEUS_PORT: String(ports.prometheus),
    MUSTER_POSTGRES_PORT: String(ports.postgres),
    MUSTER_BROKER_PASSWORD: o.passwords.broker,
    MUSTER_DATABASE_PASSWORD: o.passwords.database,
  };
  const logFile = join(o.folder, "logs", "containers.log");
  const compose = async (signal: AbortSignal | undefined, ...args: string[]): Promise<void> => {
    const fixed = ["compose", "-p", `muster-${o.marker}`, "-f", composeFile];
    await mustRun("docker", [...fixed, ...args], { env, logFile, timeoutMs: startTimeoutMs, signal });
  };
  const server = (service: string, url: string, held: readonly number[]): Server => ({
    url,
    origin: "container",
    main: () => undefined,
    ports: () => held,
    start: () => compose(o.signal, "up", "-d", "--wait", service),
    stop: () => compose(undefined, "rm", "--stop", "--force", service),
    kill: (name) => compose(undefined, "kill", "--signal", name, service),
    onDeath: () => undefined,
  });
  const login = `${brokerUser}:${o.passwords.broker}@127.0.0.1`;
  const broker = server("rabbitmq", `amqp://${login}:${ports.rabbitmq}`, [ports.rabbitmq, ports.management]);
  const postgresUrl = `postgres://postgres:${o.passwords.database}@127.0.0.1:${ports.postgres}/muster`;
  return {
    broker: {
      ...broker,
      managementUrl: `http://${login}:${ports.management}`,
      prometheusUrl: `http://127.0.0.1:${ports.prometheus}/metrics`,
    },
    database: server("postgres", postgresUrl, [ports.postgres]),
  };
}

/** Removes the containers of a folder, with their data when asked to; nothing happens where none were made. */
export async function removeContainers(o: {
  folder: string;
  marker: string;
  env: NodeJS.ProcessEnv;
  volumes: boolean;
}): Promise<void> {
  if (readJson(join(o.folder, "containers.json"), stateSchema) === undefined) return;
  if (!(await hasContainerEngine(o.env))) return;
  const env = { ...o.env, MUSTER_BROKER_PASSWORD: "unused", MUSTER_DATABASE_PASSWORD: "unused" };
  const fixed = ["compose", "-p", `muster-${o.marker}`, "-f", composeFile, "down"];
  const args = o.volumes ? [...fixed, "--volumes"] : fixed;
  await mustRun("docker", args, { env, timeoutMs: startTimeoutMs });
}
