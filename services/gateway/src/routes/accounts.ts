import { authRequests } from "@muster/contracts/auth";
import type { routes } from "@muster/contracts/routes";
import type { Handlers } from "@muster/http/handler";
import type { Ask } from "../asking.ts";
import { createdHeaders } from "./vms.ts";

type All = Handlers<typeof routes>;
type KeyRoutes = "createApiKey" | "listApiKeys" | "getApiKey" | "revokeApiKey";
type Verb = "create" | "get" | "update" | "disable";
type UserRoutes = `${Verb}User` | "listUsers";
type ServiceAccountRoutes = `${Verb}ServiceAccount` | "listServiceAccounts";
type SigningKeyRoutes = "listSigningKeys" | "rotateSigningKey" | "revokeSigningKey";
type TenantRoutes = "createTenant" | "listTenants";

interface Deps {
  readonly ask: Ask;
}

/** What auth answers about accounts and their keys; secrets pass through and are kept nowhere. */
export function accountHandlers(
  deps: Deps,
): Pick<All, KeyRoutes | SigningKeyRoutes | UserRoutes | ServiceAccountRoutes | TenantRoutes> {
  return {
    ...keyHandlers(deps),
    ...signingKeyHandlers(deps),
    ...tenantHandlers(deps),
    ...userHandlers(deps),
    ...serviceAccounts(deps),
  };
}

function keyHandlers({ ask }: Deps): Pick<All, KeyRoutes> {
  return {
    async createApiKey(request) {
      const payload = { api_key: request.body, idempotency_key: request.idempotencyKey };
      const { api_key, secret, replayed } = await ask(authRequests.createApiKey, payload, request);
      const headers = createdHeaders(`/api/v1/auth/api-keys/${api_key.id}`, replayed);
      return { data: { api_key, secret }, headers };
    },

    async listApiKeys(request) {
      const { items, next_cursor } = await ask(authRequests.listApiKeys, request.query, request);
      return { data: { api_keys: items }, meta: { next_cursor } };
    },

    async getApiKey(request) {
      return { data: { api_key: await ask(authRequests.getApiKey, request.params, request) } };
    },

    async revokeApiKey(request) {
      return { data: { api_key: await ask(authRequests.revokeApiKey, request.params, request) } };
    },
  };
}

function signingKeyHandlers({ ask }: Deps): Pick<All, SigningKeyRoutes> {
  return {
    async listSigningKeys(request) {
      return { data: await ask(authRequests.listSigningKeys, {}, request) };
    },

    async rotateSigningKey(request) {
      return { data: await ask(authRequests.rotateSigningKey, request.query, request) };
    },

    async revokeSigningKey(request) {
      return { data: await ask(authRequests.revokeSigningKey, request.params, request) };
    },
  };
}

function tenantHandlers({ ask }: Deps): Pick<All, TenantRoutes> {
  return {
    async createTenant(request) {
      const payload = { tenant: request.body, idempotency_key: request.idempotencyKey };
      const { replayed, ...data } = await ask(authRequests.createTenant, payload, request);
      const headers = createdHeaders("/api/v1/tenants", replayed);
      return { data, headers };
    },

    async listTenants(request) {
      const { items, next_cursor } = await ask(authRequests.listTenants, request.query, request);
      return { data: { tenants: items }, meta: { next_cursor } };
    },
  };
}

function userHandlers({ ask }: Deps): Pick<All, UserRoutes> {
  return {
    async createUser(request) {
      const payload = { user: request.body, idempotency_key: request.idempotencyKey };
      const { user, replayed } = await ask(authRequests.createUser, payload, request);
      return { data: { user }, headers: createdHeaders(`/api/v1/users/${user.id}`, replayed) };
    },

    async listUsers(request) {
      const { items, next_cursor } = await ask(authRequests.listUsers, request.query, request);
      return { data: { users: items }, meta: { next_cursor } };
    },

    async getUser(request) {
      return { data: { user: await ask(authRequests.getUser, request.params, request) } };
    },

    async updateUser(request) {
      const payload = { ...request.params, change: request.body };
      return { data: { user: await ask(authRequests.updateUser, payload, request) } };
    },

    async disableUser(request) {
      return { data: { user: await ask(authRequests.disableUser, request.params, request) } };
    },
  };
}

function serviceAccounts({ ask }: Deps): Pick<All, ServiceAccountRoutes> {
  return {
    async createServiceAccount(request) {
      const payload = { service_account: request.body, idempotency_key: request.idempotencyKey };
      const answer = await ask(authRequests.createServiceAccount, payload, request);
      const { service_account, replayed } = answer;
      const headers = createdHeaders(`/api/v1/service-accounts/${service_account.id}`, replayed);
      return { data: { service_account }, headers };
    },

    async listServiceAccounts(request) {
      const { items, next_cursor } = await ask(authRequests.listServiceAccounts, request.query, request);
      return { data: { service_accounts: items }, meta: { next_cursor } };
    },

    async getServiceAccount(request) {
      const { params } = request;
      return { data: { service_account: await ask(authRequests.getServiceAccount, params, request) } };
    },

    async updateServiceAccount(request) {
      const payload = { ...request.params, change: request.body };
      return { data: { service_account: await ask(authRequests.updateServiceAccount, payload, request) } };
    },

    async disableServiceAccount(request) {
      const { params } = request;
      return { data: { service_account: await ask(authRequests.disableServiceAccount, params, request) } };
    },
  };
}
