import { randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ensureLogins, ensureUser, urlFor, type BrokerUser } from "@muster/broker/users";
import { createClient, type Client } from "@muster/client/client";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { agentPermissions } from "@muster/contracts/permissions";
import { agentLoginName, loginName, type Login } from "@muster/contracts/senders";
import { setupDatabase } from "@muster/testing/database";
import { eventuallyHolds } from "@muster/testing/eventually";
import { setupVhost, type Vhost } from "@muster/testing/vhost";
import { pairWithoutKey } from "./agents/pairing.ts";
import { endLeftWork } from "./left-work.ts";
import { applyMesh, declaredMesh } from "./topology.ts";
import { freePort, ManagedProcess, repository, runToEnd } from "./processes.ts";

export const serviceNames = ["auth", "vm-ops", "reliability", "secrets", "gateway"] as const;
export type ServiceName = (typeof serviceNames)[number];

const schemas = {
  auth: "auth",
  "vm-ops": "vm_ops",
  reliability: "reliability",
  secrets: "secrets",
} as const;
const vault = { schema: "sealed_vault", directory: join(repository, "services/secrets/vault-migrations") };

/** A broker and a database to make the system on. */
export interface SystemServers {
  readonly amqpUrl: string;
  readonly managementUrl: string;
  /** Of an administrator. */
  readonly databaseUrl: string;
}

export interface SystemOptions {
  /** Settings of one service, over those that the system sets. */
  readonly env?: Partial<Record<ServiceName, Record<string, string>>>;
  readonly gatewayPort?: number;
  /** The servers that the tests share where none are given. */
  readonly servers?: SystemServers;
  /** The URL by which a process reaches the broker or the database, such as one through a link that can fail. */
  readonly through?: (process: string, to: "broker" | "database", url: string) => Promise<string>;
}

export interface AgentOptions {
  readonly vmUuids: readonly string[];
  /** Kept by the caller to start the same agent again. */
  readonly agentId?: string;
  readonly home?: string;
  readonly env?: Record<string, string>;
  readonly name?: string;
}

export interface RunningAgent {
  readonly process: ManagedProcess;
  readonly agentId: string;
  readonly home: string;
}

/** The whole system as operators run it: every service its own process, on a vhost and a database of its own. */
export interface System {
  readonly gatewayUrl: string;
  readonly tenantId: string;
  readonly apiKey: string;
  readonly client: Client;
  readonly amqpUrl: string;
  readonly vhost: Vhost;
  /** By which the services log in at the broker, with the permissions that they have. */
  readonly logins: Readonly<Record<Login, BrokerUser>>;
  readonly adminDatabaseUrl: string;
  readonly services: Readonly<Record<ServiceName, ManagedProcess>>;
  /** Every agent that was started here, also those that were stopped. */
  readonly agents: readonly RunningAgent[];
  readonly folder: string;
  /** Registers a VM and gives its id. */
  registerVm(name?: string, concurrency?: number): Promise<string>;
  /** Pairs it where it is not, and starts it with a password at the broker. */
  startAgent(options: AgentOptions): Promise<RunningAgent>;
  /** By the identity that a pairing has left in its home; `online: false` waits for nothing. */
  startPairedAgent(
    options: Omit<AgentOptions, "vmUuids"> & { agentId: string; home: string; online?: boolean },
  ): Promise<RunningAgent>;
  /** Makes another tenant with its owner and gives the owner's API key. */
  makeTenant(tenant: string, email: string): Promise<string>;
  /** Everything that was logged by a service or agent. */
  logOf(name: string): Promise<string>;
  /** `keep` leaves the folder with logs and journals in place. */
  close(o?: { keep: boolean }): Promise<void>;
}

export async function openSystem(options: SystemOptions = {}): Promise<System> {
  const folder = await mkdtemp(join(tmpdir(), "muster-e2e-"));
  const { servers } = options;
  const direct = (_process: string, _to: "broker" | "database", url: string) => Promise.resolve(url);
  const through = options.through ?? direct;
  const vhost = await setupVhost(servers);
  const migrations = Object.entries(schemas).map(([service, schema]) => ({
    schema,
    directory: join(repository, "services", service, "migrations"),
  }));
  const database = await setupDatabase({
    migrations: [...migrations, vault],
    serverUrl: servers?.databaseUrl,
  });
  await applyMesh(vhost.amqpUrl, vhost.managementUrl);

  const logins = await makeLogins(vhost);
  const newKey = () => randomBytes(32).toString("base64");
  const [keyEncryption, secretsKey] = [newKey(), newKey()];
  const gatewayPort = options.gatewayPort ?? (await freePort());
  const envOf = async (name: ServiceName): Promise<Record<string, string>> => ({
    MUSTER_AMQP_URL: await through(name, "broker", urlFor(vhost.amqpUrl, logins[name])),
    ...(name === "reliability"
      ? { MUSTER_MANAGEMENT_URL: urlFor(vhost.managementUrl, logins.topology) }
      : {}),
    ...(name === "gateway"
      ? { MUSTER_GATEWAY_HOST: "127.0.0.1", MUSTER_GATEWAY_PORT: String(gatewayPort) }
      : { MUSTER_DATABASE_URL: await through(name, "database", database.urlFor(schemas[name])) }),
    ...(name === "auth"
      ? {
          MUSTER_AUTH_KEY_ENCRYPTION_KEY: keyEncryption,
          MUSTER_MANAGEMENT_URL: urlFor(vhost.managementUrl, logins.warden),
          MUSTER_AUTH_AGENT_BROKER_URL: withoutUser(vhost.amqpUrl),
        }
      : {}),
    ...(name === "secrets"
      ? {
          MUSTER_SECRETS_KEY_ENCRYPTION_KEY: secretsKey,
          MUSTER_SECRETS_VAULT_DATABASE_URL: await through(name, "database", database.urlFor(vault.schema)),
        }
      : {}),
    ...options.env?.[name],
  });

  const authEnv = await envOf("auth");
  const owner = await bootstrapOwner(authEnv);
  const services = {} as Record<ServiceName, ManagedProcess>;
  for (const name of serviceNames) {
    services[name] = new ManagedProcess({
      name,
      entry: `services/${name}/dist/src/main.js`,
      env: name === "auth" ? authEnv : await envOf(name),
      logFolder: folder,
      internalPort: await freePort(),
    });
    services[name].start();
  }
  const agents: RunningAgent[] = [];
  const close = async ({ keep } = { keep: process.env.MUSTER_TEST_KEEP !== undefined }): Promise<void> => {
    await Promise.all(agents.map((agent) => agent.process.stop()));
    await endLeftWork(agents.map((agent) => agent.home));
    for (const name of [...serviceNames].reverse()) await services[name].stop();
    await database.destroy();
    await vhost.destroy();
    if (!keep) await rm(folder, { recursive: true, force: true });
  };
  try {
    await Promise.all(serviceNames.map((name) => services[name].ready()));
  } catch (error) {
    await close();
    throw error;
  }

  const gatewayUrl = `http://127.0.0.1:${gatewayPort}`;
  // Patient: a process of the system may be down for as long as it takes to start it again.
  const client = createClient({ baseUrl: gatewayUrl, token: owner.apiKey, attemptsMax: 25 });
  return {
    gatewayUrl,
    tenantId: owner.tenantId,
    apiKey: owner.apiKey,
    client,
    amqpUrl: vhost.amqpUrl,
    vhost,
    logins,
    adminDatabaseUrl: database.adminUrl,
    services,
    agents,
    folder,
    registerVm: async (name = "vm", concurrency = 1) => {
      const { data } = await client.registerVm({ body: { name, concurrency } });
      return data.vm.vm_uuid;
    },
    startAgent: async (agentOptions) => {
      const { agentId = uuidv7(), vmUuids } = agentOptions;
      const epoch = await paired(client, { agentId, vmUuids });
      const identity = { tenantId: owner.tenantId, agentId, vmUuids };
      const user = await makeAgentUser(vhost, identity, epoch);
      const place = placeOf(agentOptions, agentId, folder);
      const env = {
        MUSTER_AMQP_URL: await through(place.name, "broker", urlFor(vhost.amqpUrl, user)),
        MUSTER_TENANT_ID: owner.tenantId,
        MUSTER_AGENT_ID: agentId,
        MUSTER_AGENT_VMS: vmUuids.join(","),
        ...agentOptions.env,
      };
      const agent = { process: await agentProcess(place, env, folder), agentId, home: place.home };
      agents.push(agent);
      agent.process.start();
      await agent.process.ready();
      await agentOnline(client, agentId);
      return agent;
    },
    startPairedAgent: async ({ online = true, ...agentOptions }) => {
      const { agentId } = agentOptions;
      const place = placeOf(agentOptions, agentId, folder);
      const agent = {
        process: await agentProcess(place, agentOptions.env ?? {}, folder),
        agentId,
        home: place.home,
      };
      agents.push(agent);
      agent.process.start();
      if (!online) return agent;
      await agent.process.ready();
      await agentOnline(client, agentId);
      return agent;
    },
    makeTenant: async (tenant, email) => (await bootstrapOwner(authEnv, tenant, email)).apiKey,
    logOf: async (name) => await readFile(join(folder, `${name}.log`), "utf8"),
    close,
  };
}

/** As in production, each service logs in as a user of its own that may do no more than it must. */
function makeLogins(vhost: Vhost): Promise<Record<Login, BrokerUser>> {
  return ensureLogins(vhost, declaredMesh, (login) => vhost.newUser(loginName(login)));
}

async function makeAgentUser(
  vhost: Vhost,
  agent: Parameters<typeof agentPermissions>[0],
  epoch: number,
): Promise<BrokerUser> {
  const login = agentLoginName(agent.agentId, { epoch });
  const user = { ...vhost.newUser(login), permissions: agentPermissions(agent) };
  await ensureUser(vhost, user);
  return user;
}

async function bootstrapOwner(
  env: Record<string, string>,
  tenant = "default",
  email = "owner@muster.local",
): Promise<{ tenantId: string; apiKey: string }> {
  const printed = await runToEnd({
    name: "bootstrap",
    entry: "services/auth/dist/src/bootstrap.js",
    args: ["--email", email, "--tenant", tenant],
    env,
  });
  const line = printed.trim().split("\n").at(-1) ?? "";
  const made = JSON.parse(line) as { tenant_id: string; owner: { api_key: string } };
  return { tenantId: made.tenant_id, apiKey: made.owner.api_key };
}

interface Place {
  readonly name: string;
  readonly home: string;
}

function placeOf(o: Pick<AgentOptions, "name" | "home">, agentId: string, folder: string): Place {
  const name = o.name ?? `agent-${agentId.slice(-6)}`;
  return { name, home: o.home ?? join(folder, `${name}-home`) };
}

async function agentProcess(
  { name, home }: Place,
  env: Record<string, string>,
  folder: string,
): Promise<ManagedProcess> {
  return new ManagedProcess({
    name,
    entry: "agent/dist/src/main.js",
    env: { MUSTER_AGENT_HOME: home, ...env },
    logFolder: folder,
    internalPort: await freePort(),
  });
}

/** Pairs it, or gives it the VMs that it is to have now; answers its epoch. */
async function paired(client: Client, o: { agentId: string; vmUuids: readonly string[] }): Promise<number> {
  try {
    const params = { agent_id: o.agentId };
    const { data } = await client.getPairedAgent({ params });
    if ([...data.agent.vm_uuids].sort().join() !== [...o.vmUuids].sort().join()) {
      await client.updatePairedAgent({ params, body: { vm_uuids: [...o.vmUuids] } });
    }
    return data.agent.epoch;
  } catch (error) {
    if (!(error instanceof MusterError) || error.code !== "AGENT_NOT_FOUND") throw error;
    return await pairWithoutKey(client, o);
  }
}

function withoutUser(amqpUrl: string): string {
  const url = new URL(amqpUrl);
  url.username = "";
  url.password = "";
  return url.href;
}

async function agentOnline(client: Client, agentId: string): Promise<void> {
  await eventuallyHolds(async () => {
    const { data } = await client.listAgents();
    const agent = data.agents.find((known) => known.agent_id === agentId);
    if (agent?.state !== "online") throw new Error(`agent ${agentId} is ${agent?.state ?? "unknown"}`);
  }, 30_000);
}
