import { createHash, randomBytes } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brokerAudience } from "@muster/contracts/broker-tokens";
import { writeAtomically } from "../system/files.ts";

export const rabbitPortNames = ["amqp", "management", "prometheus", "distribution", "epmd"] as const;
export type RabbitPorts = Readonly<Record<(typeof rabbitPortNames)[number], number>>;

export const brokerUser = "muster";
export const nodeName = "muster@localhost";

/** RabbitMQ's own form: base64(salt, sha256(salt, password)). */
export function hashPassword(password: string, salt = randomBytes(4)): string {
  const digest = createHash("sha256")
    .update(Buffer.concat([salt, Buffer.from(password, "utf8")]))
    .digest();
  return Buffer.concat([salt, digest]).toString("base64");
}

/** Users of a fresh node; where a file of definitions names users, RabbitMQ makes no guest. */
export function renderDefinitions(password: string): string {
  return JSON.stringify(
    {
      users: [
        {
          name: brokerUser,
          password_hash: hashPassword(password),
          hashing_algorithm: "rabbit_password_hashing_sha256",
          tags: ["administrator"],
          limits: {},
        },
      ],
      vhosts: [{ name: "/" }],
      permissions: [{ user: brokerUser, vhost: "/", configure: ".*", write: ".*", read: ".*" }],
    },
    null,
    2,
  );
}

/** All listeners on the loopback address only. */
export function renderConfig(common: string, ports: RabbitPorts, definitionsPath: string): string {
  return `${common.trimEnd()}
listeners.tcp.1 = 127.0.0.1:${ports.amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = ${ports.management}
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = ${ports.prometheus}
vm_memory_high_watermark.absolute = 1GB
load_definitions = ${definitionsPath}
`;
}

/**
 * Where the node gets the keys that verify agents' tokens. Plain HTTP is refused by rabbitmq.conf, and fit for the loopback
 * address alone: the gateway that answers is on this machine.
 */
export function renderAdvanced(brokerKeysUrl: string | undefined): string {
  if (brokerKeysUrl === undefined) return "[].\n";
  const url = new URL(brokerKeysUrl).href.replace(/["\\]/g, "");
  return `[{rabbitmq_auth_backend_oauth2,
  [{resource_server_id, <<"${brokerAudience}">>},
   {key_config, [{jwks_url, "${url}"}, {algorithms, [<<"EdDSA">>]}]}]}].
`;
}

export interface RabbitPaths {
  readonly root: string;
  readonly home: string;
  readonly mnesia: string;
  readonly log: string;
  readonly config: string;
  readonly advanced: string;
  readonly plugins: string;
  readonly environment: string;
  readonly definitions: string;
  readonly output: string;
}

export function rabbitPaths(folder: string): RabbitPaths {
  const root = join(folder, "rabbitmq");
  return {
    root,
    home: join(root, "home"),
    mnesia: join(root, "mnesia"),
    log: join(root, "log"),
    config: join(root, "rabbitmq.conf"),
    advanced: join(root, "advanced.config"),
    plugins: join(root, "enabled_plugins"),
    environment: join(root, "rabbitmq-env.conf"),
    definitions: join(root, "definitions.json"),
    output: join(root, "log", "output.log"),
  };
}

export function writeRabbitFiles(
  paths: RabbitPaths,
  templates: string,
  o: { readonly ports: RabbitPorts; readonly password: string; readonly brokerKeysUrl?: string | undefined },
): void {
  for (const folder of [paths.root, paths.home, paths.mnesia, paths.log])
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  const common = readFileSync(join(templates, "rabbitmq.conf"), "utf8");
  writeFileSync(paths.config, renderConfig(common, o.ports, paths.definitions));
  writeFileSync(paths.advanced, renderAdvanced(o.brokerKeysUrl));
  copyFileSync(join(templates, "enabled_plugins"), paths.plugins);
  // Present and empty, so that the machine's own /etc/rabbitmq/rabbitmq-env.conf is not read.
  writeFileSync(paths.environment, "");
  writeAtomically(paths.definitions, renderDefinitions(o.password));
}

/** The whole environment of the node: nothing of the caller's reaches it. */
export function rabbitEnvironment(
  paths: RabbitPaths,
  ports: RabbitPorts,
  base: NodeJS.ProcessEnv,
): NodeJS.ProcessEnv {
  const { distribution } = ports;
  return {
    ...base,
    HOME: paths.home,
    RABBITMQ_NODENAME: nodeName,
    RABBITMQ_DIST_PORT: String(distribution),
    RABBITMQ_MNESIA_BASE: paths.mnesia,
    RABBITMQ_LOG_BASE: paths.log,
    RABBITMQ_PID_FILE: join(paths.root, "rabbit.pid"),
    RABBITMQ_CONFIG_FILE: paths.config,
    RABBITMQ_CONFIG_FILES: join(paths.root, "conf.d", "*.conf"),
    RABBITMQ_ADVANCED_CONFIG_FILE: paths.advanced,
    RABBITMQ_ENABLED_PLUGINS_FILE: paths.plugins,
    RABBITMQ_CONF_ENV_FILE: paths.environment,
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: "-kernel inet_dist_use_interface {127,0,0,1}",
    ERL_EPMD_PORT: String(ports.epmd),
    ERL_EPMD_ADDRESS: "127.0.0.1",
  };
}
