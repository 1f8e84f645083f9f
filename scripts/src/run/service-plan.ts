import { randomBytes } from "node:crypto";
import { urlFor } from "@muster/broker/users";
import type { BrokerUser } from "@muster/broker/users";
import type { Login } from "@muster/contracts/senders";
import { markerVariable } from "../system/process-table.ts";
import type { Secrets } from "../servers/secrets.ts";
import type { Servers } from "../servers/servers.ts";
import { logFileOf, programOf, schemas, serviceNames } from "./folder.ts";
import type { RunFolder, ServiceName, StoringService } from "./folder.ts";
import { roleUrl, tenantId, vaultUrl } from "./preparation.ts";
import type { Machine } from "./preparation.ts";

export const internalNames = [...serviceNames, "agent"] as const;
export type InternalName = (typeof internalNames)[number];
export type InternalPorts = Readonly<Record<InternalName, number>>;

export interface ProcessPlan {
  readonly name: string;
  readonly program: string;
  readonly env: NodeJS.ProcessEnv;
  readonly logFile: string;
  readonly internalUrl: string;
}

export interface PlanOptions {
  readonly folder: RunFolder;
  readonly marker: string;
  readonly servers: Servers;
  readonly secrets: Secrets;
  readonly logins: Readonly<Record<Login, BrokerUser>>;
  readonly ports: InternalPorts;
  readonly gatewayPort: number;
  readonly env: NodeJS.ProcessEnv;
}

const ofTheCallerAlone =
  /^(AMQP_URL|DATABASE_URL|MUSTER_MANAGEMENT_URL|MUSTER_TEST_.*|MUSTER_RUN_FOLDER|MUSTER_INTERNAL_PORT|MUSTER_ADMIN_DATABASE_URL)$/;

/** What a service gets of the caller's environment: all but the addresses that we choose ourselves. */
export function inheritedEnvironment(env: NodeJS.ProcessEnv, marker: string): NodeJS.ProcessEnv {
  const kept = Object.entries(env).filter(
    ([name]) => !ofTheCallerAlone.test(name) || name === "MUSTER_TEST_RUN",
  );
  return { ...Object.fromEntries(kept), [markerVariable]: marker };
}

/** Seals auth's signing keys, or what is in the sealed vault; the same as long as the database lives. */
function keyEncryptionKey(service: "auth" | "secrets", secrets: Secrets): string {
  const name = `${service}.key-encryption`;
  const kept = secrets.find(name);
  if (kept !== undefined) return kept;
  const made = randomBytes(32).toString("base64");
  secrets.set(name, made);
  return made;
}

function isStoring(name: ServiceName): name is StoringService {
  return name in schemas;
}

function internalOf(port: number): { env: NodeJS.ProcessEnv; internalUrl: string } {
  return {
    env: { MUSTER_INTERNAL_HOST: "127.0.0.1", MUSTER_INTERNAL_PORT: String(port) },
    internalUrl: `http://127.0.0.1:${port}`,
  };
}

export function planService(name: ServiceName, o: PlanOptions): ProcessPlan {
  const internal = internalOf(o.ports[name]);
  const env: NodeJS.ProcessEnv = {
    ...o.env,
    ...internal.env,
    MUSTER_AMQP_URL: urlFor(o.servers.amqpUrl, o.logins[name]),
  };
  if (name === "reliability") {
    env["MUSTER_MANAGEMENT_URL"] = urlFor(o.servers.managementUrl, o.logins.topology);
  }
  if (name === "auth") {
    env["MUSTER_AUTH_KEY_ENCRYPTION_KEY"] ??= keyEncryptionKey("auth", o.secrets);
    env["MUSTER_MANAGEMENT_URL"] = urlFor(o.servers.managementUrl, o.logins.warden);
    env["MUSTER_AUTH_AGENT_BROKER_URL"] ??= withoutUser(o.servers.amqpUrl);
  }
  if (name === "secrets") planSecrets(env, o);
  if (isStoring(name)) env["MUSTER_DATABASE_URL"] = roleUrl(o.servers.databaseUrl, name, o.secrets);
  if (name === "gateway") {
    env["MUSTER_GATEWAY_HOST"] = gatewayHost(o.env);
    env["MUSTER_GATEWAY_PORT"] = String(o.gatewayPort);
  }
  return {
    name,
    program: programOf(`services/${name}`, "main"),
    env,
    logFile: logFileOf(o.folder, name),
    internalUrl: internal.internalUrl,
  };
}

const kek = "MUSTER_SECRETS_KEY_ENCRYPTION_KEY";

/** Out of the box: the sealed vault in our own database, under a key that is made once, unless the caller has one. */
function planSecrets(env: NodeJS.ProcessEnv, o: PlanOptions): void {
  const given = [kek, `${kek}_FILE`, `${kek}_COMMAND`].some((name) => (env[name] ?? "") !== "");
  if (!given) env[kek] = keyEncryptionKey("secrets", o.secrets);
  env["MUSTER_SECRETS_VAULT_DATABASE_URL"] = vaultUrl(o.servers.databaseUrl, o.secrets);
}

function withoutUser(amqpUrl: string): string {
  const url = new URL(amqpUrl);
  url.username = "";
  url.password = "";
  return url.href;
}

export function gatewayHost(env: NodeJS.ProcessEnv): string {
  return env["MUSTER_GATEWAY_HOST"] || "127.0.0.1";
}

/** By the tokens of its pairing; or, where the broker takes none, as a user that can do no more than an agent must. */
export function planAgent(
  machine: Machine,
  login: Pick<BrokerUser, "name" | "password"> | undefined,
  o: PlanOptions,
): ProcessPlan {
  const internal = internalOf(o.ports.agent);
  const byPassword = login !== undefined;
  return {
    name: "agent",
    program: programOf("agent", "main"),
    env: {
      ...o.env,
      ...internal.env,
      MUSTER_AGENT_HOME: o.folder.agentHome,
      MUSTER_AMQP_URL: byPassword ? urlFor(o.servers.amqpUrl, login) : withoutUser(o.servers.amqpUrl),
      // Empty is unset: a paired agent knows who it is, whatever the caller's environment says.
      MUSTER_TENANT_ID: byPassword ? tenantId : "",
      MUSTER_AGENT_ID: byPassword ? machine.agent_id : "",
      MUSTER_AGENT_VMS: byPassword ? machine.vm_uuid : "",
    },
    logFile: logFileOf(o.folder, "agent"),
    internalUrl: internal.internalUrl,
  };
}
