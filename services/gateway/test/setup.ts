import { createHash, generateKeyPairSync, randomBytes } from "node:crypto";
import { openBroker } from "@muster/broker/broker";
import type { Broker, RequestHandlers } from "@muster/broker/broker";
import { applyTopology } from "@muster/broker/topology-apply";
import { authRequests } from "@muster/contracts/auth";
import type { Service } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { MeshKey } from "@muster/contracts/mesh-keys";
import { uuidv7 } from "@muster/contracts/ids";
import { meshWith } from "@muster/contracts/mesh";
import { accessTokenAudience, accessTokenIssuer, accessTokenType } from "@muster/contracts/principal";
import type { Principal, Role } from "@muster/contracts/principal";
import { loginName } from "@muster/contracts/senders";
import type { TokenRevocation } from "@muster/contracts/token-revocations";
import { topologyOf } from "@muster/contracts/topology";
import { thumbprintOf } from "@muster/identity/mesh-signer";
import { openMeshVerifier } from "@muster/identity/mesh-verify";
import type { MeshVerifier } from "@muster/identity/mesh-verify";
import { readSettings } from "@muster/service/settings";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { openFaultyLink } from "@muster/testing/faults";
import { setupVhost } from "@muster/testing/vhost";
import { SignJWT } from "jose";
import { settings } from "../src/config.ts";
import { openGateway } from "../src/open-gateway.ts";

const logger = openLogger({ service: "test", level: "silent" });

function keyPair(kid: string) {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const { crv = "", x = "" } = publicKey.export({ format: "jwk" });
  return { kid, privateKey, jwk: { kty: "OKP", crv, x, kid, alg: "EdDSA", use: "sig" as const } };
}

/** An issuer like auth: one Ed25519 key signs, the next one is published; tokens of any kind. */
function setupIssuer() {
  const pairs = [keyPair("k1"), keyPair("k2")];
  const state = {
    /** What is void, as the issuer lists it. */
    revocations: [] as TokenRevocation[],
    /** The last revocation that tokens are made after; by default they do not say. */
    asOfMs: undefined as number | undefined,
  };
  let made = pairs.length;
  const keys = pairs.map(({ jwk }) => jwk);
  const token = (
    role: Role,
    o: { expiresInSeconds?: number; tenantId?: string; audience?: string; issuer?: string } = {},
  ): Promise<string> => {
    const nowSeconds = Math.floor(Date.now() / 1_000);
    const expiresAt = nowSeconds + (o.expiresInSeconds ?? 600);
    const signer = pairs[0]!;
    const made = state.asOfMs === undefined ? {} : { as_of: state.asOfMs };
    return new SignJWT({ tenant_id: o.tenantId ?? "acme", roles: [role], permissions: [], ...made })
      .setProtectedHeader({ alg: "EdDSA", kid: signer.kid, typ: accessTokenType })
      .setIssuer(o.issuer ?? accessTokenIssuer)
      .setAudience(o.audience ?? accessTokenAudience)
      .setSubject("user:test")
      .setJti(uuidv7())
      .setIssuedAt(Math.min(nowSeconds, expiresAt) - 1)
      .setExpirationTime(expiresAt)
      .sign(signer.privateKey);
  };
  /** The key that signs is gone from now on, and the next one signs; gives the kid that was revoked. */
  const revoke = (): string => {
    pairs.push(keyPair(`k${++made}`));
    const kid = pairs.shift()!.kid;
    keys.splice(0, keys.length, ...pairs.map(({ jwk }) => jwk));
    return kid;
  };
  return Object.assign(state, { keys, token, revoke });
}

/** What the gateway asks on its own account. */
const { exchangeApiKey, getKeys, registerMeshKey, listTokenRevocations } = authRequests;
const asked = { exchangeApiKey, getKeys, registerMeshKey, listTokenRevocations };

/** Takes up the keys by which gateways vouch, as auth does. */
export function openMeshKeys(list: MeshKey[] = []) {
  const handler: RequestHandlers<typeof asked>["registerMeshKey"] = async ({ x }) => {
    const kid = thumbprintOf(x);
    const key = { kty: "OKP", crv: "Ed25519", x, kid, alg: "EdDSA", use: "sig" } as const;
    if (!list.some((known) => known.kid === kid)) list.push({ ...key, service: "gateway" });
    return { kid, expires_in_seconds: 7_200 };
  };
  return { list, handler };
}

/** A peer that answers as a key's owner; a key that it does not know is refused. */
export function authPeer(
  issuer: ReturnType<typeof setupIssuer>,
  exchanged: string[],
  meshKeys: ReturnType<typeof openMeshKeys>,
) {
  const known = new Map<string, Role>();
  const newKey = (role: Role): string => {
    const key = `mk_abcdefghij_${randomBytes(32).toString("base64url")}`;
    known.set(createHash("sha256").update(key).digest("hex"), role);
    return key;
  };
  const revoke = (key: string): void => {
    known.delete(createHash("sha256").update(key).digest("hex"));
  };
  const handlers: RequestHandlers<typeof asked> = {
    exchangeApiKey: (items) =>
      Promise.all(
        items.map(async ({ payload }) => {
          exchanged.push(payload.key_sha256);
          const role = known.get(payload.key_sha256);
          if (role === undefined) return new MusterError("INVALID_OR_MISSING_BEARER_TOKEN");
          const principal: Principal = {
            tenant_id: "acme",
            subject: "user:test",
            roles: [role],
            permissions: [],
          };
          return { access_token: await issuer.token(role), expires_in_seconds: 600, principal };
        }),
      ),
    getKeys: () => Promise.resolve({ keys: [...issuer.keys] }),
    registerMeshKey: meshKeys.handler,
    listTokenRevocations: () => Promise.resolve({ items: [...issuer.revocations], next_cursor: null }),
  };
  return { newKey, revoke, handlers };
}

export interface SetupOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly serveAuth?: boolean;
  /** The mode of the peers behind the gateway, where it is another one. */
  readonly peersMode?: "shadow" | "enforced";
}

/** A gateway on a broker of its own, and a broker for the scripted peers behind it. */
export async function setup(o: SetupOptions = {}) {
  const vhost = await setupVhost();
  await applyTopology(topologyOf(meshWith({ type: "classic", deliveryLimit: 3, lengthMax: 1_000 })), vhost);
  const issuer = setupIssuer();
  const exchanged: string[] = [];
  const meshKeys = openMeshKeys();
  const auth = authPeer(issuer, exchanged, meshKeys);
  const link = await openFaultyLink(await vhost.urlAs(loginName("gateway")));
  const mode = o.peersMode ?? (o.env?.["AUTH_MODE"] === "shadow" ? "shadow" : "enforced");
  const verifiers: MeshVerifier[] = [];
  const verifierOf = (service: Service): MeshVerifier => {
    const verifier = openMeshVerifier({
      fetchKeys: () => Promise.resolve({ keys: [...meshKeys.list] }),
      // Nobody but the gateway has heard of what is void, until a test says so.
      fetchRevocations: () => Promise.resolve({ items: [], next_cursor: null }),
      ...{ service, mode, shadowTenantId: "shadow-tenant", logger },
      metrics: createMetrics({ service: "test" }),
    });
    verifiers.push(verifier);
    return verifier;
  };
  const peer = async (service: Service): Promise<Broker> =>
    openBroker({
      url: await vhost.urlAs(loginName(service)),
      name: service,
      service,
      logger,
      metrics: createMetrics({ service }),
      identify: verifierOf(service).verify,
    });
  const peers = { auth: await peer("auth"), vmOps: await peer("vm-ops") };
  if (o.serveAuth !== false) await peers.auth.serve("auth", asked, auth.handlers);
  const metrics = createMetrics({ service: "gateway" });
  const config = readSettings(settings, { MUSTER_AMQP_URL: link.url, MUSTER_GATEWAY_PORT: "0", ...o.env });
  const broker = await openBroker({ url: link.url, name: "gateway", service: "gateway", logger, metrics });
  const gateway = await openGateway({ config, broker, version: "0.0.0", logger, metrics });
  return {
    vhost,
    issuer,
    exchanged,
    newKey: auth.newKey,
    revokeKey: auth.revoke,
    peers,
    authContracts: asked,
    authHandlers: auth.handlers,
    /** Every owner has the keys of now, and nothing else. */
    forgetKeys: async () => {
      for (const verifier of verifiers) verifier.keysChanged();
      await Promise.resolve();
    },
    /** Every owner has heard of this, and the gateway has not. */
    ownersHear: (revocation: TokenRevocation) => {
      for (const verifier of verifiers) verifier.tokensRevoked(revocation);
    },
    /** A verifier as this owner has it. */
    verifierOf,
    /** By which the peers behind the gateway know it. */
    meshKeys,
    link,
    broker,
    gateway,
    metrics,
    url: gateway.server.url,
    async close() {
      for (const verifier of verifiers) await verifier.close();
      await gateway.close();
      await broker.close();
      await peers.auth.close();
      await peers.vmOps.close();
      await link.close();
      await vhost.destroy();
    },
  };
}

export type Bundle = Awaited<ReturnType<typeof setup>>;
