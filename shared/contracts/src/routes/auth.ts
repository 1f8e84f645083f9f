import { z } from "zod";
import {
  accountChange,
  apiKeyView,
  newApiKey,
  newServiceAccount,
  newTenant,
  newUser,
  serviceAccountView,
  tenantView,
  userView,
} from "../accounts.ts";
import { keySecret } from "../auth.ts";
import { uuid } from "../ids.ts";
import { principal } from "../principal.ts";
import { defineRoute, pageFields } from "../route.ts";
import { kid, signingKeyKind, signingKeysView } from "../signing-keys.ts";
import { agentRoutes } from "./agents.ts";
import { issuerRoutes } from "./issuers.ts";
import { tokenRoutes } from "./tokens.ts";

const api = "/api/v1";
const byId = z.object({ id: uuid });
const pageQuery = z.strictObject(pageFields);

/** Who the caller is, and the keys that say so. */
const keyRoutes = {
  whoami: defineRoute({
    method: "GET",
    path: `${api}/auth/whoami`,
    summary: "Who the token says you are.",
    tag: "auth",
    access: "any",
    status: 200,
    reply: principal,
    codes: [],
  }),
  createApiKey: defineRoute({
    method: "POST",
    path: `${api}/auth/api-keys`,
    summary: "Make an API key; its secret is in this answer and never again.",
    tag: "auth",
    access: "member",
    body: newApiKey,
    status: 201,
    reply: z.object({ api_key: apiKeyView, secret: keySecret }),
    codes: [
      "ACCOUNT_NOT_FOUND",
      "ACCOUNT_DISABLED",
      "ACCOUNT_EXTERNAL",
      "API_KEYS_TOO_MANY",
      "FORBIDDEN",
      "IDEMPOTENCY_KEY_REUSED",
    ],
  }),
  listApiKeys: defineRoute({
    method: "GET",
    path: `${api}/auth/api-keys`,
    summary: "List API keys, newest first: your own; for an admin all of the tenant.",
    tag: "auth",
    access: "member",
    query: z.strictObject({ ...pageFields, principal_id: uuid.optional() }),
    status: 200,
    reply: z.object({ api_keys: z.array(apiKeyView) }),
    meta: "cursor",
    codes: [],
  }),
  getApiKey: defineRoute({
    method: "GET",
    path: `${api}/auth/api-keys/{id}`,
    summary: "Read what may be shown of one API key.",
    tag: "auth",
    access: "member",
    params: byId,
    status: 200,
    reply: z.object({ api_key: apiKeyView }),
    codes: ["API_KEY_NOT_FOUND"],
  }),
  revokeApiKey: defineRoute({
    method: "DELETE",
    path: `${api}/auth/api-keys/{id}`,
    summary: "Revoke an API key. Again is harmless.",
    tag: "auth",
    access: "member",
    params: byId,
    status: 200,
    reply: z.object({ api_key: apiKeyView }),
    codes: ["API_KEY_NOT_FOUND"],
  }),
} as const;

const signingKeyRoutes = {
  listSigningKeys: defineRoute({
    method: "GET",
    path: `${api}/auth/signing-keys`,
    summary: "List the keys that sign access tokens; for owners of the operator's tenant.",
    tag: "auth",
    access: "owner",
    status: 200,
    reply: signingKeysView,
    codes: [],
  }),
  rotateSigningKey: defineRoute({
    method: "POST",
    path: `${api}/auth/signing-keys/rotate`,
    summary:
      "Let the next key sign as soon as it has been published for long enough: now, or at `rotates_at`. Again is harmless.",
    tag: "auth",
    access: "owner",
    query: z.strictObject({
      kind: signingKeyKind.default("access").describe("Which kind of token the key signs."),
    }),
    status: 200,
    reply: signingKeysView,
    codes: [],
  }),
  revokeSigningKey: defineRoute({
    method: "POST",
    path: `${api}/auth/signing-keys/{kid}/revoke`,
    summary:
      "Revoke a signing key: what it signed is refused from now on, and another key signs. Again is harmless.",
    tag: "auth",
    access: "owner",
    params: z.object({ kid }),
    status: 200,
    reply: signingKeysView,
    codes: ["SIGNING_KEY_NOT_FOUND"],
  }),
} as const;

const tenantRoutes = {
  createTenant: defineRoute({
    method: "POST",
    path: `${api}/tenants`,
    summary: "Make a tenant with its first owner; for owners of the operator's tenant.",
    tag: "tenants",
    access: "owner",
    body: newTenant,
    status: 201,
    reply: z.object({ tenant: tenantView, owner: userView, api_key: apiKeyView, secret: keySecret }),
    codes: ["TENANT_ALREADY_EXISTS", "IDEMPOTENCY_KEY_REUSED"],
  }),
  listTenants: defineRoute({
    method: "GET",
    path: `${api}/tenants`,
    summary: "List the tenants that you belong to.",
    tag: "tenants",
    access: "member",
    query: pageQuery,
    status: 200,
    reply: z.object({ tenants: z.array(tenantView) }),
    meta: "cursor",
    codes: [],
  }),
} as const;

const userRoutes = {
  createUser: defineRoute({
    method: "POST",
    path: `${api}/users`,
    summary: "Make a user; a first key for it comes from POST /api/v1/auth/api-keys.",
    tag: "users",
    access: "admin",
    body: newUser,
    status: 201,
    reply: z.object({ user: userView }),
    codes: ["USER_ALREADY_EXISTS", "IDEMPOTENCY_KEY_REUSED"],
  }),
  listUsers: defineRoute({
    method: "GET",
    path: `${api}/users`,
    summary: "List users, newest first.",
    tag: "users",
    access: "admin",
    query: pageQuery,
    status: 200,
    reply: z.object({ users: z.array(userView) }),
    meta: "cursor",
    codes: [],
  }),
  getUser: defineRoute({
    method: "GET",
    path: `${api}/users/{id}`,
    summary: "Read one user.",
    tag: "users",
    access: "admin",
    params: byId,
    status: 200,
    reply: z.object({ user: userView }),
    codes: ["ACCOUNT_NOT_FOUND"],
  }),
  updateUser: defineRoute({
    method: "PATCH",
    path: `${api}/users/{id}`,
    summary: "Change a user's name, role or permissions.",
    tag: "users",
    access: "admin",
    params: byId,
    body: accountChange,
    status: 200,
    reply: z.object({ user: userView }),
    codes: ["ACCOUNT_NOT_FOUND", "ACCOUNT_DISABLED", "ACCOUNT_EXTERNAL", "LAST_OWNER"],
  }),
  disableUser: defineRoute({
    method: "DELETE",
    path: `${api}/users/{id}`,
    summary: "Disable a user: no key of the user works any more. Again is harmless.",
    tag: "users",
    access: "admin",
    params: byId,
    status: 200,
    reply: z.object({ user: userView }),
    codes: ["ACCOUNT_NOT_FOUND", "LAST_OWNER"],
  }),
} as const;

const serviceAccountRoutes = {
  createServiceAccount: defineRoute({
    method: "POST",
    path: `${api}/service-accounts`,
    summary:
      "Make a service account; a key for it, its client secret too, comes from POST /api/v1/auth/api-keys.",
    tag: "service-accounts",
    access: "admin",
    body: newServiceAccount,
    status: 201,
    reply: z.object({ service_account: serviceAccountView }),
    codes: ["IDEMPOTENCY_KEY_REUSED"],
  }),
  listServiceAccounts: defineRoute({
    method: "GET",
    path: `${api}/service-accounts`,
    summary: "List service accounts, newest first.",
    tag: "service-accounts",
    access: "admin",
    query: pageQuery,
    status: 200,
    reply: z.object({ service_accounts: z.array(serviceAccountView) }),
    meta: "cursor",
    codes: [],
  }),
  getServiceAccount: defineRoute({
    method: "GET",
    path: `${api}/service-accounts/{id}`,
    summary: "Read one service account.",
    tag: "service-accounts",
    access: "admin",
    params: byId,
    status: 200,
    reply: z.object({ service_account: serviceAccountView }),
    codes: ["ACCOUNT_NOT_FOUND"],
  }),
  updateServiceAccount: defineRoute({
    method: "PATCH",
    path: `${api}/service-accounts/{id}`,
    summary: "Change a service account's name, role or permissions.",
    tag: "service-accounts",
    access: "admin",
    params: byId,
    body: accountChange,
    status: 200,
    reply: z.object({ service_account: serviceAccountView }),
    codes: ["ACCOUNT_NOT_FOUND", "ACCOUNT_DISABLED"],
  }),
  disableServiceAccount: defineRoute({
    method: "DELETE",
    path: `${api}/service-accounts/{id}`,
    summary: "Disable a service account: no key of it works any more. Again is harmless.",
    tag: "service-accounts",
    access: "admin",
    params: byId,
    status: 200,
    reply: z.object({ service_account: serviceAccountView }),
    codes: ["ACCOUNT_NOT_FOUND"],
  }),
} as const;

/** Routes that auth answers, by the key of their handler in the gateway. */
export const authRoutes = {
  ...keyRoutes,
  ...signingKeyRoutes,
  ...tenantRoutes,
  ...userRoutes,
  ...serviceAccountRoutes,
  ...issuerRoutes,
  ...agentRoutes,
  ...tokenRoutes,
} as const;
