import { generateKeyPairSync, randomBytes, randomUUID, sign } from "node:crypto";
import { fileURLToPath } from "node:url";
import { openBroker } from "@muster/broker/broker";
import type { Broker } from "@muster/broker/broker";
import { applyTopology } from "@muster/broker/topology-apply";
import { authRequests } from "@muster/contracts/auth";
import type { PayloadInputOf, PayloadOf, ReplyOf, RequestContract, Service } from "@muster/contracts/define";
import type { WorkContext } from "@muster/contracts/envelope";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import type { MeshKey } from "@muster/contracts/mesh-keys";
import { meshWith } from "@muster/contracts/mesh";
import type { Principal, Role } from "@muster/contracts/principal";
import { agentResolve, resolvedSecrets, resolveProofText } from "@muster/contracts/secret-reports";
import { sealedFor, secretsRequests } from "@muster/contracts/secrets";
import type { Material } from "@muster/contracts/secrets";
import type { ResolvedSecrets } from "@muster/contracts/secret-reports";
import { agentLoginName, loginName } from "@muster/contracts/senders";
import { topologyOf } from "@muster/contracts/topology";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { openAdmin } from "@muster/database/admin";
import { openDatabase } from "@muster/database/database";
import type { Database } from "@muster/database/database";
import { openMeshSigner, thumbprintOf } from "@muster/identity/mesh-signer";
import { openMeshVerifier } from "@muster/identity/mesh-verify";
import { vouching } from "@muster/identity/vouch";
import { makeBoxKey, open as openBox, seal } from "@muster/sealing/box";
import { readSettings } from "@muster/service/settings";
import type { Closeable } from "@muster/service/start";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { setupDatabase } from "@muster/testing/database";
import { setupVhost } from "@muster/testing/vhost";
import { settings } from "../src/config.ts";
import { keysOf } from "../src/keys/keys.ts";
import type { Keys } from "../src/keys/keys.ts";
import { openSecrets } from "../src/open-secrets.ts";
import { openSealedVault } from "../src/vaults/sealed/sealed-vault.ts";
import type { Place, Vault } from "../src/vaults/vault.ts";

export const logger = openLogger({ service: "test", level: "silent" });
export const migrations = [
  { schema: "secrets", directory: fileURLToPath(new URL("../../migrations", import.meta.url)) },
  { schema: "sealed_vault", directory: fileURLToPath(new URL("../../vault-migrations", import.meta.url)) },
];

const opened: (() => Promise<unknown>)[] = [];

/** Closed after the test, last opened first, whether the test passed or not. */
export function closeAfterTest<C extends { close(): Promise<unknown> }>(closeable: C): C {
  opened.push(() => closeable.close());
  return closeable;
}

/** To be called at the top of each test file: mocha forgets the hooks that a file before it in the same process made. */
export function closeAfterEachTest(): void {
  if (opened.length > 0) throw new Error("an earlier test file has left open what it opened");
  afterEach(async () => {
    for (const close of opened.splice(0).reverse()) await close();
  });
}

export interface Ground {
  readonly vhost: Awaited<ReturnType<typeof setupVhost>>;
  readonly database: Awaited<ReturnType<typeof setupDatabase>>;
  /** By which services vouch for callers here. */
  readonly meshKeys: MeshKey[];
  readonly kek: Buffer;
}

/** A vhost with the whole topology, and a database with both schemas. */
export async function setupGround(): Promise<Ground> {
  const [vhost, database] = await Promise.all([setupVhost(), setupDatabase({ migrations })]);
  await applyTopology(topologyOf(meshWith({ type: "classic", deliveryLimit: 2, lengthMax: 1_000 })), vhost);
  closeAfterTest({ close: () => Promise.all([vhost.destroy(), database.destroy()]) });
  return { vhost, database, meshKeys: [], kek: randomBytes(32) };
}

export async function openSchema(
  ground: Pick<Ground, "database">,
  schema: "secrets" | "sealed_vault",
): Promise<Database> {
  return await openDatabase({
    ...{ url: ground.database.urlFor(schema), schema, applicationName: `${schema}-test`, poolMax: 6 },
    ...{ statementTimeoutMs: 10_000, logger, metrics: createMetrics({ service: "test" }) },
  });
}

export async function openVaultOf(
  ground: Pick<Ground, "database" | "kek">,
  keys: Keys = keysOf(ground.kek),
): Promise<Vault> {
  const database = await openSchema(ground, "sealed_vault");
  const metrics = createMetrics({ service: "test" });
  return await openSealedVault({ database, keys, rewrapEveryMs: 250, logger, metrics });
}

/** What happens before the real vault is asked, and after. */
export interface VaultScript {
  before: (what: "write" | "read" | "destroy", place: Place) => Promise<void>;
  after: (what: "write" | "read" | "destroy", place: Place) => Promise<void>;
}

const nothing = () => Promise.resolve();

function scripted(vault: Vault, script: VaultScript): Vault {
  const around = async <T>(what: "write" | "read" | "destroy", place: Place, work: () => Promise<T>) => {
    await script.before(what, place);
    const answer = await work();
    await script.after(what, place);
    return answer;
  };
  return {
    kind: vault.kind,
    check: (signal) => vault.check(signal),
    write: (place, material, signal) => around("write", place, () => vault.write(place, material, signal)),
    read: (place, signal) => around("read", place, () => vault.read(place, signal)),
    destroy: (place, signal) => around("destroy", place, () => vault.destroy(place, signal)),
    close: () => vault.close(),
  };
}

export interface Running {
  readonly database: Database;
  readonly vaultScript: VaultScript;
  close(): Promise<void>;
}

/** The service in this process, wired as main.ts wires it. */
export async function startSecrets(
  ground: Ground,
  o: { readonly env?: Record<string, string>; readonly keys?: Keys } = {},
): Promise<Running> {
  const env = {
    MUSTER_AMQP_URL: await ground.vhost.urlAs(loginName("secrets")),
    MUSTER_DATABASE_URL: ground.database.urlFor("secrets"),
    ...o.env,
  };
  const config = readSettings(settings, env);
  const metrics = createMetrics({ service: "secrets" });
  const owned: Closeable[] = [];
  const close = async () => {
    for (const closeable of owned.splice(0)) await closeable.close();
  };
  closeAfterTest({ close });
  const own = <C extends Closeable>(_name: string, closeable: C): C => {
    owned.unshift(closeable);
    return closeable;
  };
  const keys = o.keys ?? keysOf(ground.kek);
  const vaultScript: VaultScript = { before: nothing, after: nothing };
  const vault = own("vault", scripted(await openVaultOf(ground, keys), vaultScript));
  const database = own("database", await openSchema(ground, "secrets"));
  const verifier = own("verifier", meshVerifierFor("secrets", ground.meshKeys));
  const broker = own(
    "broker",
    await openBroker({
      ...{ url: config.MUSTER_AMQP_URL, name: "secrets", service: "secrets", logger, metrics },
      identify: verifier.verify,
      drainTimeoutMs: 2_000,
    }),
  );
  await openSecrets({ config, database, broker, vault, keys, logger, metrics, own });
  return { database, vaultScript, close };
}

function meshVerifierFor(service: Service, keys: readonly MeshKey[]) {
  return openMeshVerifier({
    ...{ service, mode: "enforced", shadowTenantId: "shadow-tenant", logger },
    fetchKeys: () => Promise.resolve({ keys: [...keys] }),
    fetchRevocations: () => Promise.resolve({ items: [], next_cursor: null }),
    metrics: createMetrics({ service }),
  });
}

async function openPeer(ground: Ground, service: Service): Promise<Broker> {
  const url = await ground.vhost.urlAs(loginName(service));
  const metrics = createMetrics({ service });
  const options = { url, name: service, service, logger, metrics, drainTimeoutMs: 2_000 };
  return closeAfterTest(await openBroker(options));
}

export interface Who {
  readonly tenant?: string;
  readonly role?: Role;
  readonly subject?: string;
  readonly permissions?: readonly string[];
}

export interface Gateway {
  readonly broker: Broker;
  as<C extends RequestContract>(who: Who, contract: C, payload: PayloadInputOf<C>): Promise<ReplyOf<C>>;
  /** Material as the gateway seals it. */
  sealed(material: Material, tenant?: string): Promise<string>;
  create(
    name: string,
    material: Material,
    who?: Who,
  ): Promise<ReplyOf<typeof secretsRequests.createSecret>["secret"]>;
  /** Reads material back. */
  read(secretId: string, version?: number, who?: Who): Promise<Material>;
}

export const admin = { tenant: "acme", role: "admin", subject: "user:0190aaaa" } as const;
export const reader = { ...admin, permissions: ["secrets.read"] } as const;

/** A gateway that vouches for whom it asks by a key that every peer here knows. */
export async function openGateway(ground: Ground): Promise<Gateway> {
  const broker = await openPeer(ground, "gateway");
  const register = ({ x }: { x: string }) => {
    const key = { kty: "OKP", crv: "Ed25519", x, kid: thumbprintOf(x), alg: "EdDSA", use: "sig" } as const;
    ground.meshKeys.push({ ...key, service: "gateway" });
    return Promise.resolve({ expires_in_seconds: 7_200 });
  };
  const metrics = createMetrics({ service: "gateway" });
  const signer = closeAfterTest(openMeshSigner({ service: "gateway", register, logger, metrics }));
  const origin = () => ({ asOfMs: Date.UTC(2030, 0, 1), via: ["api-key:0190aaaa"] });
  const as: Gateway["as"] = (who, contract, payload) => {
    const principal: Principal = {
      tenant_id: who.tenant ?? "acme",
      subject: who.subject ?? "user:0190bbbb",
      roles: [who.role ?? "member"],
      permissions: [...(who.permissions ?? [])],
    };
    return vouching({ signer, logger }, { principal, origin }, contract, (identity) =>
      broker.request(contract, payload, { ...ownContext(), identity }),
    );
  };
  const sealed: Gateway["sealed"] = async (material, tenant = "acme") => {
    const { x } = await broker.request(secretsRequests.getSealingKey, {}, ownContext());
    return await seal(Buffer.from(JSON.stringify(material)), { x, about: sealedFor.write(tenant) });
  };
  return {
    ...{ broker, as, sealed },
    async create(name, material, who = admin) {
      const payload = { secret: { name }, sealed: await sealed(material, who.tenant) };
      return (await as(who, secretsRequests.createSecret, payload)).secret;
    },
    async read(secretId, version, who = reader) {
      const key = makeBoxKey();
      const payload = { secret_id: secretId, version, recipient: { x: key.x } };
      const answer = await as(who, secretsRequests.readVersion, payload);
      const about = sealedFor.read(who.tenant ?? "acme", secretId, answer.version);
      return JSON.parse(Buffer.from(await openBox(answer.sealed, { key, about })).toString()) as Material;
    },
  };
}

const ownContext = (): WorkContext => ({ correlationId: randomUUID() });

export type Attempt = ReplyOf<typeof vmOpsRequests.getAttempt>;

export interface Owners {
  /** What auth answers; by agent. */
  readonly agentKeys: Map<string, ReplyOf<typeof authRequests.getAgentKey>>;
  /** What vm-ops answers; by `tenant/agent/command/attempt/token`. */
  readonly attempts: Map<string, Attempt>;
  /** vm-ops, which also tells of commands that ended. */
  readonly vmOps: Broker;
  readonly asked: PayloadOf<typeof vmOpsRequests.getAttempt>[];
  readonly followUps: FollowUpScript;
}

type FollowUpAsked = PayloadOf<typeof vmOpsRequests.acceptFollowUp>;
export type FollowUpAnswer = ReplyOf<typeof vmOpsRequests.acceptFollowUp>;

export interface FollowUpScript {
  /** By idempotency key, each once, in the order in which they came. */
  readonly accepted: Map<string, FollowUpAsked & { readonly commandId: string }>;
  /** All, those included that were refused. */
  readonly asked: FollowUpAsked[];
  /** Before vm-ops answers; it may refuse, or change the answer. */
  answering: (asked: FollowUpAsked, answer: () => FollowUpAnswer) => Promise<FollowUpAnswer>;
}

/** Owners that answer what secrets asks them, as their contracts say. */
export async function openOwners(ground: Ground): Promise<Owners> {
  const [auth, vmOps] = [await openPeer(ground, "auth"), await openPeer(ground, "vm-ops")];
  const agentKeys: Owners["agentKeys"] = new Map();
  const attempts: Owners["attempts"] = new Map();
  const asked: Owners["asked"] = [];
  const { getAgentKey } = authRequests;
  await auth.serve(
    "auth",
    { getAgentKey },
    {
      async getAgentKey({ tenant_id, agent_id }) {
        const known = agentKeys.get(`${tenant_id}/${agent_id}`);
        if (known === undefined) throw new MusterError("AGENT_NOT_FOUND");
        return await Promise.resolve(known);
      },
    },
  );
  const { getAttempt, acceptFollowUp } = vmOpsRequests;
  const accepted: FollowUpScript["accepted"] = new Map();
  const followUps: FollowUpScript = {
    ...{ accepted, asked: [] },
    answering: (_asked, answer) => Promise.resolve(answer()),
  };
  await vmOps.serve(
    "vm-ops",
    { getAttempt, acceptFollowUp },
    {
      async acceptFollowUp(payload) {
        followUps.asked.push(payload);
        return await followUps.answering(payload, () => {
          const before = accepted.get(payload.idempotency_key);
          const commandId = before?.commandId ?? uuidv7();
          accepted.set(payload.idempotency_key, { ...payload, commandId });
          return followUpAnswer(payload, commandId, before !== undefined);
        });
      },
      async getAttempt(payload) {
        asked.push(payload);
        const { tenant_id, agent_id, command_id, attempt, token } = payload;
        const known = attempts.get([tenant_id, agent_id, command_id, attempt, token].join("/"));
        if (known === undefined) throw new MusterError("ATTEMPT_NOT_RUNNING");
        return await Promise.resolve(known);
      },
    },
  );
  return { agentKeys, attempts, vmOps, asked, followUps };
}

function followUpAnswer(payload: FollowUpAsked, commandId: string, replayed: boolean): FollowUpAnswer {
  const { command, requested_by } = payload;
  const at = new Date().toISOString();
  return {
    command: {
      ...{ id: commandId, vm_uuid: command.vm_uuid, action: command.action, state: "queued", requested_by },
      ...{ environment: null, project_id: null, correlation_id: "test", timeout_seconds: 60 },
      ...{ accepted_at: at, expires_at: at },
    },
    ...{ replayed, ended: null },
  };
}

export interface Asking {
  readonly commandId: string;
  readonly attempt: number;
  readonly token: string;
  readonly references: readonly string[];
}

export type Resolve = (
  asking: Asking,
  how?: { nonce?: string; key?: ReturnType<typeof makeBoxKey>; proof?: string; x?: string },
) => Promise<{ leaseMs: number; secrets: ResolvedSecrets; sealed: string }>;

export interface TestAgent {
  readonly agentId: string;
  readonly vmUuid: string;
  /** Lets vm-ops say that this agent runs an attempt, whose command names these references. */
  runs(
    references: readonly string[],
    more?: Partial<Attempt> & { attempt?: number; commandId?: string },
  ): Asking;
  resolve: Resolve;
}

/** A paired agent of one VM, by a login of its own. */
export async function openAgent(
  ground: Ground,
  owners: Owners,
  o: { tenant?: string; epoch?: number; agentId?: string } = {},
): Promise<TestAgent> {
  const { tenant = "acme", epoch = 1, agentId = uuidv7() } = o;
  const vmUuid = uuidv7();
  const identity = generateKeyPairSync("ed25519");
  const { x = "" } = identity.publicKey.export({ format: "jwk" });
  owners.agentKeys.set(`${tenant}/${agentId}`, {
    ...{ state: "paired", epoch },
    public_key: { kty: "OKP", crv: "Ed25519", x },
  });
  const url = await ground.vhost.urlAs(agentLoginName(agentId, { epoch }));
  const metrics = createMetrics({ service: "agent" });
  const broker = closeAfterTest(await openBroker({ url, name: "agent", logger, metrics }));
  return {
    ...{ agentId, vmUuid },
    runs(references, { attempt = 1, commandId = uuidv7(), ...more } = {}) {
      const token = randomUUID();
      owners.attempts.set([tenant, agentId, commandId, attempt, token].join("/"), {
        ...{
          vm_uuid: vmUuid,
          vm_labels: {},
          project_id: null,
          requested_by: "user:0190cccc",
          left_ms: 60_000,
        },
        references: [...references],
        ...more,
      });
      return { commandId, attempt, token, references };
    },
    async resolve({ commandId, attempt, token, references }, how = {}) {
      const { nonce = uuidv7(), key = makeBoxKey() } = how;
      const asked = { tenant, agentId, commandId, attempt, nonce, x: how.x ?? key.x };
      const text = Buffer.from(resolveProofText(asked));
      const answer = await broker.report(
        agentResolve,
        {
          ...{ command_id: commandId, attempt, token, nonce, x: asked.x, references: [...references] },
          proof: how.proof ?? sign(null, text, identity.privateKey).toString("base64url"),
        },
        { tenantId: tenant, agentId },
        ownContext(),
      );
      const plain = await openBox(answer.sealed, { key, about: sealedFor.attempt(asked) });
      const secrets = resolvedSecrets.parse(JSON.parse(Buffer.from(plain).toString()));
      return { leaseMs: answer.lease_ms, secrets, sealed: answer.sealed };
    },
  };
}

export async function codeOf(work: Promise<unknown>): Promise<string> {
  return await work.then(
    () => "none",
    (error: unknown) => (error instanceof MusterError ? error.code : String(error)),
  );
}

export const inSystem = <R>(
  database: Database,
  text: string,
  values: readonly unknown[] = [],
): Promise<R[]> => database.transaction("system", (tx) => tx.query<R>(text, values));

export const requests = secretsRequests;

export const openReliability = (ground: Ground): Promise<Broker> => openPeer(ground, "reliability");

/** Every row of every table of a schema, bytes as hex. */
export async function everyRow(adminUrl: string, schema: string): Promise<Record<string, unknown>[]> {
  const admin = await openAdmin(adminUrl);
  try {
    const tables = await admin.query<{ name: string }>(
      `SELECT c.relname AS name FROM pg_class c WHERE c.relnamespace = '${schema}'::regnamespace AND c.relkind = 'r'`,
    );
    const rows: Record<string, unknown>[] = [];
    for (const { name } of tables) {
      const found = await admin.query<{ row: Record<string, unknown> }>(
        `SELECT to_jsonb(t) AS row FROM "${schema}"."${name}" t`,
      );
      rows.push(...found.map(({ row }) => row));
    }
    return rows;
  } finally {
    await admin.close();
  }
}
