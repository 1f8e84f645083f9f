import { setMaxListeners } from "node:events";
import { mkdirSync, rmSync } from "node:fs";
import { z } from "zod";
import { ensureLogins, ensureUser } from "@muster/broker/users";
import type { BrokerUser } from "@muster/broker/users";
import { createClient } from "@muster/client/client";
import type { Client } from "@muster/client/client";
import { MusterError } from "@muster/contracts/errors";
import { agentPermissions } from "@muster/contracts/permissions";
import { agentLoginName, loginName } from "@muster/contracts/senders";
import { parseAmqpUrl } from "../servers/amqp-probe.ts";
import { openSecrets } from "../servers/secrets.ts";
import type { Secrets } from "../servers/secrets.ts";
import { startServers } from "../servers/servers.ts";
import type { Servers } from "../servers/servers.ts";
import { markerOf, readJson, writeJson } from "../system/files.ts";
import { choosePorts } from "../system/ports.ts";
import { ensurePaired } from "./pairing.ts";
import { demonstrate, ensureRegistered } from "./demonstration.ts";
import { serviceNames, storingServices } from "./folder.ts";
import type { RunFolder } from "./folder.ts";
import { chooseGatewayPort } from "./gateway-port.ts";
import { stopLeftovers } from "./leftovers.ts";
import { ensureOwner, migrateAll, tenantId, thisMachine } from "./preparation.ts";
import type { Machine, Owner, PreparationOptions } from "./preparation.ts";
import { writeRunFile } from "./run-file.ts";
import type { RunFile } from "./run-file.ts";
import { gatewayHost, inheritedEnvironment, internalNames, planAgent, planService } from "./service-plan.ts";
import type { PlanOptions, ProcessPlan } from "./service-plan.ts";
import { supervise } from "./supervised.ts";
import type { Supervised } from "./supervised.ts";
import { declaredMesh, declareTopology } from "./topology.ts";
import { keepServersUp } from "./watch-servers.ts";

const readyTimeoutMs = 120_000;
const drainMs = 30_000;
const agentDrainMs = 15_000;

const portsSchema = z.record(z.string(), z.number().int().min(1).max(65_535));

export interface SystemOptions {
  readonly folder: RunFolder;
  readonly env: NodeJS.ProcessEnv;
  readonly say: (line: string) => void;
}

/** Everything of one checkout: servers, services, one agent. Started once, stopped once. */
export class System {
  readonly #o: SystemOptions;
  readonly #stopping = new AbortController();
  readonly #marker: string;
  readonly #secrets: Secrets;
  readonly #processes: Supervised[] = [];
  #servers: Servers | undefined;
  #starting: Promise<RunFile> | undefined;
  #stopped: Promise<void> | undefined;
  #current: (() => RunFile) | undefined;
  client: Client | undefined;

  constructor(o: SystemOptions) {
    this.#o = o;
    // Every step of the start listens to it, many at once.
    setMaxListeners(0, this.#stopping.signal);
    mkdirSync(o.folder.logs, { recursive: true, mode: 0o700 });
    this.#marker = markerOf(o.folder.root);
    this.#secrets = openSecrets(o.folder.secrets);
  }

  get #signal(): AbortSignal {
    return this.#stopping.signal;
  }

  processes(): readonly Supervised[] {
    return this.#processes;
  }

  /** Resolves when a real command has run. Rejects, with nothing tidied up, when something cannot be had. */
  start(): Promise<RunFile> {
    this.#starting ??= this.#start();
    return this.#starting;
  }

  async #start(): Promise<RunFile> {
    const { folder, say } = this.#o;
    rmSync(folder.runFile, { force: true });
    const left = await stopLeftovers(folder, { work: false });
    if (left > 0) say(`stopped ${left} processes that an earlier run left behind`);
    const ports = await this.#choosePorts();
    const gatewayUrl = `http://${reachable(gatewayHost(this.#o.env))}:${ports.gatewayPort}`;
    const servers = await this.#startServers(`${gatewayUrl}/.well-known/broker-jwks.json`);
    const env = inheritedEnvironment(this.#o.env, this.#marker);
    const preparation = { folder, servers, secrets: this.#secrets, env, signal: this.#signal };
    say(`database: migrating ${storingServices.join(", ")}; broker: declaring the topology`);
    const [, logins] = await Promise.all([
      migrateAll(preparation),
      declareTopology(servers, env, this.#signal).then(() => this.#makeLogins(servers, env)),
    ]);
    const plan = { folder, marker: this.#marker, servers, secrets: this.#secrets, logins, env, ...ports };
    say(`starting ${serviceNames.join(", ")}`);
    const owner = await this.#startServices(plan, preparation);
    const { client, valid } = await this.#logIn(gatewayUrl, owner, preparation);
    this.client = client;
    const machine = thisMachine(folder);
    await this.#startAgent(gatewayUrl, client, machine, plan);
    await demonstrate(client, machine, say, this.#signal);
    this.#current = () => this.#describe(gatewayUrl, valid, machine, servers);
    const run = this.#current();
    writeRunFile(folder.runFile, run);
    return run;
  }

  /** Users belong to the whole broker: their names say whose they are, and where it has several vhosts, of which. */
  #makeLogins(servers: Servers, env: NodeJS.ProcessEnv): Promise<PlanOptions["logins"]> {
    const { vhost } = parseAmqpUrl(servers.amqpUrl);
    const place = vhost === "/" ? "" : vhost;
    return ensureLogins(servers, declaredMesh(env), (login) => ({
      name: loginName(login, place),
      password: this.#secrets.get(`broker.${login}`),
    }));
  }

  async #choosePorts(): Promise<Pick<PlanOptions, "ports" | "gatewayPort">> {
    const { folder, env } = this.#o;
    const kept = readJson(folder.ports, portsSchema) ?? {};
    const gatewayPort = await chooseGatewayPort(env["MUSTER_GATEWAY_PORT"], kept["http"], gatewayHost(env));
    const ports = await choosePorts(internalNames, kept);
    writeJson(folder.ports, { ...ports, http: gatewayPort });
    return { ports, gatewayPort };
  }

  async #startServers(brokerKeysUrl: string): Promise<Servers> {
    const { folder, env, say } = this.#o;
    const servers = await startServers({
      folder: folder.root,
      durable: true,
      log: say,
      env,
      signal: this.#signal,
      brokerKeysUrl,
    });
    this.#servers = servers;
    keepServersUp(servers, say, this.#signal);
    return servers;
  }

  #supervise(plan: ProcessPlan): Supervised {
    this.#signal.throwIfAborted();
    const started = supervise({ ...plan, log: this.#o.say, onChange: () => this.#rewriteRunFile() });
    this.#processes.push(started);
    return started;
  }

  async #startServices(plan: PlanOptions, preparation: PreparationOptions): Promise<Owner> {
    const services = serviceNames.map((name) => this.#supervise(planService(name, plan)));
    const owner = ensureOwner(preparation);
    await Promise.all([owner, ...services.map((service) => service.waitReady(readyTimeoutMs, this.#signal))]);
    return owner;
  }

  /** A kept key may have been revoked, or belong to a database that is gone: then another one is made. */
  async #logIn(
    baseUrl: string,
    owner: Owner,
    preparation: PreparationOptions,
  ): Promise<{ client: Client; valid: Owner }> {
    const client = createClient({ baseUrl, token: owner.api_key });
    try {
      await client.whoami({ signal: this.#signal });
      return { client, valid: owner };
    } catch (error) {
      if (!(error instanceof MusterError) || error.code !== "INVALID_OR_MISSING_BEARER_TOKEN") throw error;
    }
    const valid = await ensureOwner(preparation, true);
    return { client: createClient({ baseUrl, token: valid.api_key }), valid };
  }

  async #startAgent(gatewayUrl: string, client: Client, machine: Machine, plan: PlanOptions): Promise<void> {
    await ensureRegistered(client, machine);
    const epoch = await ensurePaired(client, machine, { ...plan, gatewayUrl, signal: this.#signal });
    const { servers } = plan;
    // A broker of our own takes the agent's tokens. One that was given, or is a container, may not reach the gateway's keys.
    const byToken = servers.broker.origin === "private";
    const login = byToken ? undefined : await this.#agentUser(machine, epoch, servers);
    const agent = this.#supervise(planAgent(machine, login, plan));
    await agent.waitReady(readyTimeoutMs, this.#signal);
  }

  async #agentUser(
    { agent_id: agentId, vm_uuid }: Machine,
    epoch: number,
    servers: Servers,
  ): Promise<BrokerUser> {
    const permissions = agentPermissions({ tenantId, agentId, vmUuids: [vm_uuid] });
    const user = {
      name: agentLoginName(agentId, { epoch }),
      password: this.#secrets.get(`agent.${agentId}`),
      permissions,
    };
    await ensureUser(servers, user);
    return user;
  }

  #describe(gatewayUrl: string, owner: Owner, machine: Machine, servers: Servers): RunFile {
    const services = this.#processes.filter(({ name }) => name !== "agent");
    const agent = this.#processes.find(({ name }) => name === "agent");
    return {
      gateway_url: gatewayUrl,
      owner: { email: owner.email, api_key: owner.api_key },
      tenant_id: owner.tenant_id,
      amqp_url: servers.amqpUrl,
      database_url: servers.databaseUrl,
      management_url: servers.managementUrl,
      services: Object.fromEntries(
        services.map((one) => [
          one.name,
          {
            pid: one.pid(),
            health_url: `${one.internalUrl}/healthz`,
            metrics_url: `${one.internalUrl}/metrics`,
          },
        ]),
      ),
      agents: [{ pid: agent?.pid() ?? null, vm_uuid: machine.vm_uuid }],
      supervisor: { pid: process.pid },
    };
  }

  #rewriteRunFile(): void {
    if (this.#current !== undefined && !this.#signal.aborted) {
      writeRunFile(this.#o.folder.runFile, this.#current());
    }
  }

  /** Drains and stops all that was started, also in the middle of a start. Idempotent. */
  stop(reason = "stopped"): Promise<void> {
    this.#stopped ??= this.#stop(reason);
    return this.#stopped;
  }

  async #stop(reason: string): Promise<void> {
    this.#stopping.abort(new Error(reason));
    rmSync(this.#o.folder.runFile, { force: true });
    // The start notices by the signal; what it had begun is then known.
    await this.#starting?.catch(() => undefined);
    const agents = this.#processes.filter(({ name }) => name === "agent");
    const gateways = this.#processes.filter(({ name }) => name === "gateway");
    const others = this.#processes.filter(({ name }) => name !== "agent" && name !== "gateway");
    await Promise.all([
      ...agents.map((one) => one.stop(agentDrainMs)),
      ...gateways.map((one) => one.stop(drainMs)),
    ]);
    await Promise.all(others.map((one) => one.stop(drainMs)));
    await this.#servers?.stop();
    await stopLeftovers(this.#o.folder);
  }
}

/** Where a client on this machine finds a server that listens on every address. */
function reachable(host: string): string {
  return host === "0.0.0.0" || host === "::" ? "127.0.0.1" : host.includes(":") ? `[${host}]` : host;
}
