import type { Broker, RequestHandlers } from "@muster/broker/broker";
import { serviceAccountView, userView } from "@muster/contracts/accounts";
import { authRequests } from "@muster/contracts/auth";
import type { Jwks } from "@muster/contracts/auth";
import type { pairingRequests } from "@muster/contracts/pairing";
import type { SigningKeyKind } from "@muster/contracts/signing-keys";
import type { Database } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { accountsOf } from "./accounts/manage.ts";
import { serviceAccountViewOf, userViewOf } from "./accounts/store.ts";
import { issueAgentTokens } from "./agents/issue.ts";
import type { IssueDeps } from "./agents/issue.ts";
import type { Evictions } from "./agents/evictions.ts";
import {
  createPairingCode,
  getAgentKey,
  getPairedAgent,
  listPairedAgents,
  revokeAgent,
  updatePairedAgent,
} from "./agents/manage.ts";
import { pairAgent } from "./agents/pair.ts";
import { exchangeApiKeys } from "./api-keys/exchange.ts";
import { createApiKey, getApiKey, listApiKeys, revokeApiKey } from "./api-keys/manage.ts";
import { apiKeyStore } from "./api-keys/store.ts";
import type { Networks } from "./issuers/addresses.ts";
import { exchangeToken } from "./issuers/exchange.ts";
import type { ExternalDeps } from "./issuers/exchange.ts";
import { createIssuer, getIssuer, listIssuers, removeIssuer } from "./issuers/manage.ts";
import type { Bounds } from "./limits/bounds.ts";
import { Limits } from "./limits/limits.ts";
import { findMeshKeys, registerMeshKey } from "./mesh-keys/register.ts";
import { listRevocations } from "./revocations/tell.ts";
import { Minter } from "./signing/minter.ts";
import { listSigningKeys, revokeSigningKey, rotateSigningKey } from "./signing/manage.ts";
import type { KeyRequestParts } from "./signing/manage.ts";
import type { SigningKeys } from "./signing/open-signing.ts";
import { findPublished } from "./signing/store.ts";
import { createTenant, listTenants } from "./tenants/manage.ts";
import { issueToken } from "./tokens/issue.ts";
import type { TokenDeps } from "./tokens/issue.ts";
import { refreshToken, revokeToken } from "./tokens/refresh.ts";
import type { RefreshLife } from "./tokens/store.ts";

/** What is needed to keep the keys of every kind. */
export type KeepingOfAll = Omit<KeyRequestParts, "operatorTenantId">;

export interface AuthOptions {
  readonly database: Database;
  readonly broker: Pick<Broker, "serve">;
  readonly signing: Pick<SigningKeys, "activeKid" | "keyOf">;
  readonly keeping: KeepingOfAll;
  readonly operatorTenantId: string;
  readonly refreshLife: RefreshLife;
  /** Outside issuers: where they may be, how their keys are had, what becomes of their tokens. */
  readonly external: Pick<ExternalDeps, "keys" | "logger" | "exchanges" | "now"> & {
    readonly networks: Networks;
  };
  /** How agents get to the broker. */
  readonly agents: Pick<IssueDeps, "signing" | "brokerUrl" | "vhost"> & {
    readonly evictions: Pick<Evictions, "wake">;
  };
  readonly bounds: Bounds;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** Resolves when it answers; closing the broker ends it. */
export async function openAuth(o: AuthOptions): Promise<void> {
  const { database, broker, signing, refreshLife, bounds, metrics } = o;
  const minter = new Minter({ ttlSeconds: o.keeping.tokenTtlSeconds.access, keptMax: 10_000 });
  const limits = new Limits({ bounds, metrics });
  const tokens: TokenDeps = {
    database,
    keys: apiKeyStore(database),
    limits,
    signing,
    mint: (id, principal, notAfter, now) => minter.mint(id, principal, notAfter, now),
    now: Date.now,
    refreshLife,
  };
  const handlers: RequestHandlers<typeof authRequests> = {
    exchangeApiKey: exchangeApiKeys(tokens),
    getKeys: () => published(database, "access"),
    getBrokerKeys: () => published(database, "broker"),
    registerMeshKey: (payload, context) => registerMeshKey(database, payload, context),
    getMeshKeys: () => database.transaction("system", findMeshKeys, { readOnly: true }),
    ...keyHandlers(database),
    ...signingKeyHandlers(o),
    ...accountHandlers(database),
    createTenant: (payload, context) => createTenant(o, payload, context),
    listTenants: (payload, context) => listTenants(database, payload, context),
    issueToken: (payload) => issueToken(tokens, payload),
    refreshToken: (payload) => refreshToken(tokens, payload),
    revokeToken: (payload) => revokeToken(tokens, payload),
    exchangeToken: (payload) => exchangeToken({ ...tokens, ...o.external }, payload),
    ...issuerHandlers(o),
    ...agentHandlers(o, limits),
    listTokenRevocations: (payload) => listRevocations(database, payload),
  };
  await broker.serve("auth", authRequests, handlers);
}

type Handlers = RequestHandlers<typeof authRequests>;

/** What verifies tokens of this kind now. */
export function published(database: Pick<Database, "transaction">, kind: SigningKeyKind): Promise<Jwks> {
  return database.transaction("system", (tx) => findPublished(tx, kind), { readOnly: true });
}

function agentHandlers(o: AuthOptions, limits: Limits): Pick<Handlers, keyof typeof pairingRequests> {
  const { database, logger, agents } = o;
  const common = { ...agents, database, limits, logger, now: Date.now };
  const { pairAgent: pairing, issueAgentTokens: issuing } = authRequests;
  const tokenTtlSeconds = o.keeping.tokenTtlSeconds.broker;
  return {
    createPairingCode: (payload, context) => createPairingCode(database, payload, context),
    pairAgent: (payload, context) => pairAgent({ ...common, contract: pairing }, payload, context),
    issueAgentTokens: (payload) =>
      issueAgentTokens({ ...common, contract: issuing, tokenTtlSeconds }, payload),
    getAgentKey: (payload) => getAgentKey(database, payload),
    listPairedAgents: (payload, context) => listPairedAgents(database, payload, context),
    getPairedAgent: ({ agent_id }, context) => getPairedAgent(database, agent_id, context),
    updatePairedAgent: (payload, context) => updatePairedAgent(database, payload, context),
    revokeAgent: ({ agent_id }, context) =>
      revokeAgent({ database, evictions: agents.evictions }, agent_id, context),
  };
}

function keyHandlers(
  database: Database,
): Pick<Handlers, "createApiKey" | "listApiKeys" | "getApiKey" | "revokeApiKey"> {
  return {
    createApiKey: (payload, context) => createApiKey(database, payload, context),
    listApiKeys: (payload, context) => listApiKeys(database, payload, context),
    getApiKey: ({ id }, context) => getApiKey(database, id, context),
    revokeApiKey: ({ id }, context) => revokeApiKey(database, id, context),
  };
}

function issuerHandlers({
  database,
  external: { networks },
}: AuthOptions): Pick<Handlers, "createIssuer" | "listIssuers" | "getIssuer" | "removeIssuer"> {
  return {
    createIssuer: (payload, context) => createIssuer({ database, networks }, payload, context),
    listIssuers: (payload, context) => listIssuers(database, payload, context),
    getIssuer: ({ id }, context) => getIssuer(database, id, context),
    removeIssuer: ({ id }, context) => removeIssuer(database, id, context),
  };
}

function signingKeyHandlers(
  o: AuthOptions,
): Pick<Handlers, "listSigningKeys" | "rotateSigningKey" | "revokeSigningKey"> {
  const parts = { ...o.keeping, operatorTenantId: o.operatorTenantId };
  return {
    listSigningKeys: (_payload, context) => listSigningKeys(parts, context),
    rotateSigningKey: ({ kind }, context) => rotateSigningKey(parts, kind, context),
    revokeSigningKey: ({ kid }, context) => revokeSigningKey(parts, kid, context),
  };
}

type AccountRequest = `${"create" | "get" | "update" | "disable"}${"User" | "ServiceAccount"}`;

function accountHandlers(
  database: Database,
): Pick<Handlers, AccountRequest | "listUsers" | "listServiceAccounts"> {
  const users = accountsOf(database, { kind: "user", view: userView, viewOf: userViewOf });
  const accounts = accountsOf(database, {
    kind: "service-account",
    view: serviceAccountView,
    viewOf: serviceAccountViewOf,
  });
  return {
    async createUser({ user, idempotency_key: key }, context) {
      const { answer, replayed } = await users.create(
        { ...user, name: user.name ?? user.email },
        key,
        context,
      );
      return { user: answer, replayed };
    },
    listUsers: (payload, context) => users.list(payload, context),
    getUser: ({ id }, context) => users.get(id, context),
    updateUser: ({ id, change }, context) => users.update(id, change, context),
    disableUser: ({ id }, context) => users.disable(id, context),
    async createServiceAccount({ service_account, idempotency_key: key }, context) {
      const { answer, replayed } = await accounts.create(service_account, key, context);
      return { service_account: answer, replayed };
    },
    listServiceAccounts: (payload, context) => accounts.list(payload, context),
    getServiceAccount: ({ id }, context) => accounts.get(id, context),
    updateServiceAccount: ({ id, change }, context) => accounts.update(id, change, context),
    disableServiceAccount: ({ id }, context) => accounts.disable(id, context),
  };
}
