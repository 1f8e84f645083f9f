import { createHash, randomBytes } from "node:crypto";
import { fileURLToPath } from "node:url";
import { openBroker } from "@muster/broker/broker";
import type { Broker } from "@muster/broker/broker";
import { applyTopology } from "@muster/broker/topology-apply";
import { authRequests } from "@muster/contracts/auth";
import type { PayloadInputOf, ReplyOf, RequestContract } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { meshWith } from "@muster/contracts/mesh";
import type { PreparedMessage } from "@muster/contracts/message";
import { accessTokenAudience, accessTokenIssuer, accessTokenType } from "@muster/contracts/principal";
import type { Role } from "@muster/contracts/principal";
import { loginName } from "@muster/contracts/senders";
import { signingKeysChanged } from "@muster/contracts/signing-keys";
import type { SigningKeyKind } from "@muster/contracts/signing-keys";
import { tokensRevoked } from "@muster/contracts/token-revocations";
import { topologyOf } from "@muster/contracts/topology";
import { openDatabase } from "@muster/database/database";
import type { Database } from "@muster/database/database";
import { openOutboxRelay } from "@muster/database/outbox";
import { readTrusted } from "@muster/identity/claims";
import { hearIssuer } from "@muster/identity/hear-issuer";
import { openMeshSigner } from "@muster/identity/mesh-signer";
import { openMeshVerifier } from "@muster/identity/mesh-verify";
import { openVerifier } from "@muster/identity/verify";
import type { Verifier } from "@muster/identity/verify";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { setupDatabase } from "@muster/testing/database";
import type { TestDatabase } from "@muster/testing/database";
import { setupVhost } from "@muster/testing/vhost";
import type { Vhost } from "@muster/testing/vhost";
import { SignJWT } from "jose";
import { openEvictions } from "../src/agents/evictions.ts";
import { guardBy } from "../src/agents/guard.ts";
import { blockListOf } from "../src/issuers/addresses.ts";
import { exchangesOf } from "../src/issuers/exchange.ts";
import { IssuerKeys } from "../src/issuers/keys.ts";
import type { Bounds } from "../src/limits/bounds.ts";
import { findMeshKeys } from "../src/mesh-keys/register.ts";
import { openAuth, published } from "../src/open-auth.ts";
import type { AuthOptions } from "../src/open-auth.ts";
import type { Keeping } from "../src/signing/keep.ts";
import { listRevocations } from "../src/revocations/tell.ts";
import { openSigning } from "../src/signing/open-signing.ts";
import type { SigningKeys } from "../src/signing/open-signing.ts";
import { sealerOf } from "../src/signing/sealed.ts";
import { ensureFirstOwner } from "../src/tenants/first-owner.ts";

export const logger = openLogger({ service: "test", level: "silent" });
export const metrics = createMetrics({ service: "test" });
export const keyEncryptionKey = randomBytes(32);
export const life = { rotationMs: 30 * 86_400_000, publishAheadMs: 3_600_000 };
export const context = { correlationId: "test" };
export const migrations = [
  { schema: "auth", directory: fileURLToPath(new URL("../../migrations", import.meta.url)) },
];

export function open(url: string): Promise<Database> {
  const options = {
    url,
    schema: "auth",
    applicationName: "auth-test",
    poolMax: 4,
    statementTimeoutMs: 5_000,
  };
  return openDatabase({ ...options, logger, metrics });
}

/** As if so much time had passed for every signing key. */
export async function passTime(database: Database, seconds: number): Promise<void> {
  const times = ["created", "activated", "retired", "revoked", "rotation_asked"].map((name) => `${name}_at`);
  const moves = [...times, "verify_until"].map((name) => `${name} = ${name} - $1 * interval '1 second'`);
  await database.transaction("system", (tx) =>
    tx.query(`UPDATE signing_keys SET ${moves.join(", ")}`, [seconds]),
  );
}

/** The signing keys as one more replica has them. It looks by itself only once in a test's life. */
export function openReplica(
  database: Database,
  o: { kind?: SigningKeyKind; sealingKey?: Buffer; otherSealingKey?: Buffer; tokenTtlSeconds?: number } = {},
): Promise<SigningKeys> {
  const sealer = sealerOf(o.sealingKey ?? keyEncryptionKey, o.otherSealingKey);
  const { kind = "access", tokenTtlSeconds = 600 } = o;
  return openSigning({ kind, database, sealer, tokenTtlSeconds, life, lookMs: 60_000, logger, metrics });
}

/** How auth lets agents to the broker and throws them out; it looks at once when a test does something. */
export async function agentParts(database: Database, vhost: Vhost, sweepMs = 600_000) {
  const signing = await openReplica(database, { kind: "broker" });
  const guard = guardBy(vhost.managementUrl, vhost.amqpUrl);
  const evictions = openEvictions({ database, guard, everyMs: 250, sweepMs, logger, metrics });
  const agents: AuthOptions["agents"] = { signing, evictions, brokerUrl: null, vhost: vhost.name };
  return {
    agents,
    async close() {
      await evictions.close();
      await signing.close();
    },
  };
}

export const tokenTtlSeconds = { access: 600, broker: 600 };

/** How auth reaches outside issuers, which are on this machine here; by a clock that can be moved. */
export function externalParts(clock: { aheadMs: number }): AuthOptions["external"] {
  const networks = blockListOf(["127.0.0.0/8"]);
  const now = () => Date.now() + clock.aheadMs;
  const ages = { maxAgeMs: 600_000, staleMaxMs: 3_600_000 };
  const keys = new IssuerKeys({ networks, timeoutMs: 2_000, ...ages, logger, now });
  const exchanges = exchangesOf(createMetrics({ service: "test" }));
  return { networks, keys, logger, exchanges, now };
}

export interface Claims {
  readonly tenantId: string;
  readonly subject: string;
  readonly role: Role;
  readonly permissions?: readonly string[];
  readonly audience?: string;
  readonly expiresInSeconds?: number;
}

export interface Setup {
  readonly postgres: TestDatabase;
  readonly vhost: Vhost;
  readonly database: Database;
  readonly broker: Broker;
  /** The gateway's, which asks. */
  readonly asker: Broker;
  readonly keeping: Keeping;
  /** By which outside issuers and their tokens are looked at. */
  readonly outsideClock: { aheadMs: number };
  exchange(key: string): Promise<ReplyOf<typeof authRequests.exchangeApiKey>>;
  /** Asks as whoever holds this token. */
  as<C extends RequestContract>(
    token: string | undefined,
    contract: C,
    payload: PayloadInputOf<C>,
  ): Promise<ReplyOf<C>>;
  /** The same by a gateway that took the token some time ago and has heard of nothing since. */
  unheard<C extends RequestContract>(
    token: string,
    contract: C,
    payload: PayloadInputOf<C>,
  ): Promise<ReplyOf<C>>;
  /** A token by the key that signs, whatever its claims. */
  sign(claims: Claims): Promise<string>;
  close(): Promise<void>;
}

/** As much as no test but one of limits uses. */
export const wideBounds: Bounds = {
  "failures-by-address": { max: 1_000, windowSeconds: 60 },
  "failures-by-credential": { max: 1_000, windowSeconds: 60 },
  "tokens-by-principal": { max: 1_000, windowSeconds: 60 },
  "tokens-by-tenant": { max: 1_000, windowSeconds: 60 },
  "agent-tokens-by-tenant": { max: 1_000, windowSeconds: 60 },
};

export const refreshLife = { absoluteSeconds: 86_400, idleSeconds: 3_600, retrySeconds: 30 };

/** auth as it runs, on a broker and a database of its own. */
export async function setup({ bounds = wideBounds }: { bounds?: Bounds } = {}): Promise<Setup> {
  const [postgres, vhost] = await Promise.all([setupDatabase({ migrations }), setupVhost()]);
  await applyTopology(topologyOf(meshWith({ type: "classic", deliveryLimit: 3, lengthMax: 1_000 })), vhost);
  const database = await open(postgres.urlFor("auth"));
  const shadowTenantId = "shadow-tenant";
  const fetchKeys = () => published(database, "access");
  const fetchRevocations = (page: { limit: number; cursor?: string }) => listRevocations(database, page);
  const verifying = { fetchRevocations, mode: "enforced", shadowTenantId, logger } as const;
  const verifier = openVerifier({ ...verifying, fetchKeys, metrics });
  const mesh = openMeshVerifier({
    ...{ ...verifying, service: "auth", metrics: createMetrics({ service: "auth" }) },
    fetchKeys: () => database.transaction("system", findMeshKeys, { readOnly: true }),
  });
  const url = await vhost.urlAs(loginName("auth"));
  const broker = await openBroker({
    url,
    name: "auth",
    service: "auth",
    identify: mesh.verify,
    logger,
    metrics,
  });
  const gatewayUrl = await vhost.urlAs(loginName("gateway"));
  const asker = await openBroker({ url: gatewayUrl, name: "gateway", service: "gateway", logger, metrics });
  const tenants = { operatorTenantId: "default" };
  const signing = await openReplica(database);
  const publish = (message: PreparedMessage) => broker.publish(message);
  const relay = await openOutboxRelay({ database, publish, logger, metrics });
  await hearIssuer(broker, mesh);
  await hearAsGateway(asker, verifier);
  const sealer = sealerOf(keyEncryptionKey);
  const keeping: Keeping = { kind: "access", database, sealer, tokenTtlSeconds: 600, life };
  const agents = await agentParts(database, vhost);
  const outsideClock = { aheadMs: 0 };
  const external = externalParts(outsideClock);
  await openAuth({
    ...{ database, broker, signing, keeping: { ...keeping, tokenTtlSeconds }, ...tenants, refreshLife },
    ...{ external, agents: agents.agents, bounds, logger, metrics },
  });
  const signer = openMeshSigner({
    service: "gateway",
    register: (key) => asker.request(authRequests.registerMeshKey, key, context),
    ...{ logger, metrics: createMetrics({ service: "gateway" }) },
  });
  return {
    postgres,
    vhost,
    database,
    broker,
    asker,
    keeping,
    outsideClock,
    exchange(key) {
      const prefix = key.split("_")[1] ?? "";
      const key_sha256 = createHash("sha256").update(key).digest("hex");
      return asker.request(authRequests.exchangeApiKey, { prefix, key_sha256 }, context);
    },
    async as(token, contract, payload) {
      if (token === undefined) return asker.request(contract, payload, context);
      // As the gateway does: the token is looked at there, and the mesh sees one for this request.
      const principal = await verifier.verify(token);
      const { origin } = readTrusted(token);
      const identity = await signer.mint({ principal, origin: () => origin }, contract);
      return asker.request(contract, payload, { ...context, identity });
    },
    async unheard(token, contract, payload) {
      const { principal, origin } = readTrusted(token);
      const identity = await signer.mint({ principal, origin: () => origin }, contract);
      return asker.request(contract, payload, { ...context, identity });
    },
    async sign(claims) {
      const key = await signing.keyOf(await database.transaction("system", signing.activeKid));
      const nowSeconds = Math.floor(Date.now() / 1_000);
      const { tenantId: tenant_id, role, permissions = [] } = claims;
      return await new SignJWT({ tenant_id, roles: [role], permissions })
        .setProtectedHeader({ alg: key.alg, kid: key.kid, typ: accessTokenType })
        .setIssuer(accessTokenIssuer)
        .setAudience(claims.audience ?? accessTokenAudience)
        .setSubject(claims.subject)
        .setJti(uuidv7())
        .setIssuedAt(nowSeconds - 120)
        .setExpirationTime(nowSeconds + (claims.expiresInSeconds ?? 600))
        .sign(key.privateKey);
    },
    async close() {
      await agents.close();
      await signing.close();
      await relay.close();
      await signer.close();
      await asker.close();
      await broker.close();
      await verifier.close();
      await mesh.close();
      await database.close();
      await Promise.all([postgres.destroy(), vhost.destroy()]);
    },
  };
}

/** A gateway's verifier is told of what it verifies by. */
async function hearAsGateway(asker: Broker, verifier: Verifier): Promise<void> {
  await asker.hear(signingKeysChanged, {
    heard: ({ kind, revoked }) => {
      if (kind === "access") verifier.keysChanged(revoked);
    },
    missed: () => verifier.keysChanged(),
  });
  await asker.hear(tokensRevoked, {
    heard: (revocation) => verifier.tokensRevoked(revocation),
    missed: () => verifier.tokensRevoked(),
  });
}

export async function codeOf(work: Promise<unknown>): Promise<string> {
  return await work.then(
    () => "none",
    (error: unknown) => (error instanceof MusterError ? error.code : String(error)),
  );
}

/** A key of the tenant's owner; makes the tenant where it is missing. */
export async function makeKey(database: Database, tenantId: string): Promise<string> {
  const made = await ensureFirstOwner(database, { tenantId, email: "owner@example.org", newKey: true });
  return made.owner.api_key ?? "";
}
