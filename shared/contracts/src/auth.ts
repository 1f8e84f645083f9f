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
} from "./accounts.ts";
import { page } from "./commands.ts";
import { defineBatchRequest, defineRequest } from "./define.ts";
import { sha256, uuid } from "./ids.ts";
import { issuerRequests } from "./issuers.ts";
import { clientAddress } from "./limits.ts";
import { agentChanged, pairingRequests } from "./pairing.ts";
import { principal } from "./principal.ts";
import { meshKeyRequests, meshKeysChanged } from "./mesh-keys.ts";
import {
  kid,
  publishedKeysMax,
  signingKeyKind,
  signingKeysChanged,
  signingKeysView,
} from "./signing-keys.ts";
import { revocationRequests, tokensRevoked } from "./token-revocations.ts";
import { tokenLimits, tokenRequests } from "./tokens.ts";
import { cursor, idempotencyKey, limit } from "./vm-ops.ts";

/** API keys read `mk_<prefix>_<secret>`; the prefix may be shown, the secret is known to its holder alone. */
export const apiKeyPattern = /^mk_[a-z0-9]{10}_[A-Za-z0-9_-]{43}$/;

const jwk = z.looseObject({ kty: z.string(), kid: z.string(), alg: z.string(), use: z.literal("sig") });
export const jwks = z.object({ keys: z.array(jwk).max(publishedKeysMax) });
export type Jwks = z.infer<typeof jwks>;

const paging = { limit, cursor: cursor.optional() };
const key = { idempotency_key: idempotencyKey.optional() };
/** A whole API key: in the first answer to its creation, null in a repeated one. It is kept nowhere. */
export const keySecret = z.string().max(128).nullable();

export const authRequests = {
  exchangeApiKey: defineBatchRequest({
    owner: "auth",
    name: "auth.api-key.exchange.v1",
    summary: "A short-lived access token for the hash of an API key.",
    payload: z.object({
      /** The part between the underscores. */
      prefix: z.string().regex(/^[a-z0-9]{10}$/),
      /** Of the whole key: the key itself never enters a queue. */
      key_sha256: sha256,
      /** Of who brings it; none where the key was good a moment ago, whose holder guesses nothing. */
      client_address: clientAddress.optional(),
    }),
    reply: z.object({
      access_token: z.string().max(4_096),
      expires_in_seconds: z.number().int().min(1),
      principal,
    }),
    codes: [],
    identity: "none",
    limits: tokenLimits,
    batch: { sizeMax: 100, waitMs: 2 },
  }),
  getKeys: defineRequest({
    owner: "auth",
    name: "auth.keys.get.v1",
    summary: "The public keys that verify access tokens (RFC 7517).",
    payload: z.object({}),
    reply: jwks,
    codes: [],
    identity: "none",
  }),
  getBrokerKeys: defineRequest({
    owner: "auth",
    name: "auth.broker-keys.get.v1",
    summary: "The public keys that verify the tokens by which agents log in at the broker (RFC 7517).",
    payload: z.object({}),
    reply: jwks,
    codes: [],
    identity: "none",
  }),
  listSigningKeys: defineRequest({
    owner: "auth",
    name: "auth.signing-key.list.v1",
    summary: "List the keys that sign access tokens; for owners of the operator's tenant.",
    payload: z.object({}),
    reply: signingKeysView,
    codes: [],
  }),
  rotateSigningKey: defineRequest({
    owner: "auth",
    name: "auth.signing-key.rotate.v1",
    summary:
      "Let the next key sign as soon as it has been published for long enough: now, or at `rotates_at`. Again is harmless.",
    payload: z.object({ kind: signingKeyKind.default("access") }),
    reply: signingKeysView,
    codes: [],
  }),
  revokeSigningKey: defineRequest({
    owner: "auth",
    name: "auth.signing-key.revoke.v1",
    summary:
      "Revoke a signing key: what it signed is refused from now on, and another key signs. Again is harmless.",
    payload: z.object({ kid }),
    reply: signingKeysView,
    codes: ["SIGNING_KEY_NOT_FOUND"],
  }),
  createApiKey: defineRequest({
    owner: "auth",
    name: "auth.api-key.create.v1",
    summary: "Make an API key for the caller, or for an account that the caller is above.",
    payload: z.object({ api_key: newApiKey, ...key }),
    reply: z.object({ api_key: apiKeyView, secret: keySecret, replayed: z.boolean() }),
    codes: [
      "ACCOUNT_NOT_FOUND",
      "ACCOUNT_DISABLED",
      "ACCOUNT_EXTERNAL",
      "API_KEYS_TOO_MANY",
      "IDEMPOTENCY_KEY_REUSED",
    ],
  }),
  listApiKeys: defineRequest({
    owner: "auth",
    name: "auth.api-key.list.v1",
    summary: "List API keys, newest first: a member's own, for an admin the tenant's.",
    payload: z.object({ principal_id: uuid.optional(), ...paging }),
    reply: page(apiKeyView),
    codes: ["CURSOR_INVALID"],
  }),
  getApiKey: defineRequest({
    owner: "auth",
    name: "auth.api-key.get.v1",
    summary: "Read what may be shown of one API key.",
    payload: z.object({ id: uuid }),
    reply: apiKeyView,
    codes: ["API_KEY_NOT_FOUND"],
  }),
  revokeApiKey: defineRequest({
    owner: "auth",
    name: "auth.api-key.revoke.v1",
    summary: "Revoke an API key; again is harmless.",
    payload: z.object({ id: uuid }),
    reply: apiKeyView,
    codes: ["API_KEY_NOT_FOUND"],
  }),
  createTenant: defineRequest({
    owner: "auth",
    name: "auth.tenant.create.v1",
    summary: "Make a tenant with its first owner and a key of the owner.",
    payload: z.object({ tenant: newTenant, ...key }),
    reply: z.object({
      tenant: tenantView,
      owner: userView,
      api_key: apiKeyView,
      secret: keySecret,
      replayed: z.boolean(),
    }),
    codes: ["TENANT_ALREADY_EXISTS", "IDEMPOTENCY_KEY_REUSED"],
  }),
  listTenants: defineRequest({
    owner: "auth",
    name: "auth.tenant.list.v1",
    summary: "List the tenants that the caller belongs to.",
    payload: z.object(paging),
    reply: page(tenantView),
    codes: ["CURSOR_INVALID"],
  }),
  createUser: defineRequest({
    owner: "auth",
    name: "auth.user.create.v1",
    summary: "Make a user, with no role above the caller's.",
    payload: z.object({ user: newUser, ...key }),
    reply: z.object({ user: userView, replayed: z.boolean() }),
    codes: ["USER_ALREADY_EXISTS", "IDEMPOTENCY_KEY_REUSED"],
  }),
  listUsers: defineRequest({
    owner: "auth",
    name: "auth.user.list.v1",
    summary: "List the tenant's users, newest first.",
    payload: z.object(paging),
    reply: page(userView),
    codes: ["CURSOR_INVALID"],
  }),
  getUser: defineRequest({
    owner: "auth",
    name: "auth.user.get.v1",
    summary: "Read one user of the tenant.",
    payload: z.object({ id: uuid }),
    reply: userView,
    codes: ["ACCOUNT_NOT_FOUND"],
  }),
  updateUser: defineRequest({
    owner: "auth",
    name: "auth.user.update.v1",
    summary: "Change a user's name, role or permissions.",
    payload: z.object({ id: uuid, change: accountChange }),
    reply: userView,
    codes: ["ACCOUNT_NOT_FOUND", "ACCOUNT_DISABLED", "ACCOUNT_EXTERNAL", "LAST_OWNER"],
  }),
  disableUser: defineRequest({
    owner: "auth",
    name: "auth.user.disable.v1",
    summary: "Disable a user: no key of the user works any more. Again is harmless.",
    payload: z.object({ id: uuid }),
    reply: userView,
    codes: ["ACCOUNT_NOT_FOUND", "LAST_OWNER"],
  }),
  createServiceAccount: defineRequest({
    owner: "auth",
    name: "auth.service-account.create.v1",
    summary: "Make a service account, with no role above the caller's.",
    payload: z.object({ service_account: newServiceAccount, ...key }),
    reply: z.object({ service_account: serviceAccountView, replayed: z.boolean() }),
    codes: ["IDEMPOTENCY_KEY_REUSED"],
  }),
  listServiceAccounts: defineRequest({
    owner: "auth",
    name: "auth.service-account.list.v1",
    summary: "List the tenant's service accounts, newest first.",
    payload: z.object(paging),
    reply: page(serviceAccountView),
    codes: ["CURSOR_INVALID"],
  }),
  getServiceAccount: defineRequest({
    owner: "auth",
    name: "auth.service-account.get.v1",
    summary: "Read one service account of the tenant.",
    payload: z.object({ id: uuid }),
    reply: serviceAccountView,
    codes: ["ACCOUNT_NOT_FOUND"],
  }),
  updateServiceAccount: defineRequest({
    owner: "auth",
    name: "auth.service-account.update.v1",
    summary: "Change a service account's name, role or permissions.",
    payload: z.object({ id: uuid, change: accountChange }),
    reply: serviceAccountView,
    codes: ["ACCOUNT_NOT_FOUND", "ACCOUNT_DISABLED"],
  }),
  disableServiceAccount: defineRequest({
    owner: "auth",
    name: "auth.service-account.disable.v1",
    summary: "Disable a service account: no key of it works any more. Again is harmless.",
    payload: z.object({ id: uuid }),
    reply: serviceAccountView,
    codes: ["ACCOUNT_NOT_FOUND"],
  }),
  ...issuerRequests,
  ...meshKeyRequests,
  ...pairingRequests,
  ...tokenRequests,
  ...revocationRequests,
} as const;

export const authEvents = { signingKeysChanged, meshKeysChanged, tokensRevoked, agentChanged } as const;
