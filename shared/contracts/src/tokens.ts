import { z } from "zod";
import { defineRequest } from "./define.ts";
import { sha256, tenantId, timestamp, uuid } from "./ids.ts";
import { clientAddress } from "./limits.ts";
import { principal } from "./principal.ts";

/** In a scope: a refresh token is wanted besides. */
export const offlineAccess = "offline_access";

/** Refresh tokens read `mr_<secret>`: 256 bits, opaque. */
export const refreshTokenPattern = /^mr_[A-Za-z0-9_-]{43}$/;

/** RFC 8693 §3: what is presented in exchange, as it names it. */
export const subjectTokenTypes = [
  "urn:ietf:params:oauth:token-type:jwt",
  "urn:ietf:params:oauth:token-type:id_token",
  "urn:ietf:params:oauth:token-type:access_token",
] as const;

/** Tokens of others: some carry a person's groups, and are much larger than ours. */
export const subjectTokenCharsMax = 16_384;
/** One compact JWS. */
export const subjectTokenPattern = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/;

/** RFC 6749 §3.3: words with spaces between; names of a role and of permissions, and `offline_access`. */
export const scope = z
  .string()
  .max(4_096)
  .regex(/^[a-z._ -]*$/, "must be names of roles and permissions with spaces between");

const granted = z.object({
  access_token: z.string().max(4_096),
  expires_in_seconds: z.number().int().min(1),
  principal,
  /** What the access token carries, and `offline_access` where a refresh token comes with it. */
  scope: z.string().max(8_192),
  refresh_token: z.string().max(128).nullable(),
  /** When the refresh token ends unless it is used before. */
  refresh_expires_at: timestamp.nullable(),
});

/** Where what is presented came from, and everything that it counts for. */
const presented = { client_address: clientAddress.optional() };
export const tokenLimits = [
  "failures-by-address",
  "failures-by-credential",
  "tokens-by-principal",
  "tokens-by-tenant",
] as const;
/** A refresh token is nothing but its secret: there is no name to count by. */
export const refreshLimits = ["failures-by-address", "tokens-by-principal", "tokens-by-tenant"] as const;

/** What auth answers to the grants of OAuth 2.0 (RFC 6749). Only hashes of what is presented enter a queue. */
export const tokenRequests = {
  issueToken: defineRequest({
    owner: "auth",
    name: "auth.token.issue.v1",
    summary: "Tokens for the hash of an API key, or of a service account's client secret, within a scope.",
    payload: z.object({
      /** The part of the key between the underscores. */
      prefix: z.string().regex(/^[a-z0-9]{10}$/),
      key_sha256: sha256,
      /** The service account whose key it must be. */
      client_id: uuid.optional(),
      scope: scope.optional(),
      ...presented,
    }),
    reply: granted,
    codes: ["INVALID_CLIENT", "INVALID_SCOPE"],
    identity: "none",
    limits: tokenLimits,
  }),
  refreshToken: defineRequest({
    owner: "auth",
    name: "auth.token.refresh.v1",
    summary: "Tokens for the hash of a refresh token, which is used up by it.",
    payload: z.object({
      token_sha256: sha256,
      /** Names the request: the same one again, soon, gets the same answer. */
      request_key: z.string().min(1).max(255),
      scope: scope.optional(),
      ...presented,
    }),
    reply: granted,
    codes: ["INVALID_GRANT", "INVALID_SCOPE"],
    identity: "none",
    limits: refreshLimits,
  }),
  exchangeToken: defineRequest({
    owner: "auth",
    name: "auth.token.exchange.v1",
    summary: "An access token for a token of an issuer that a tenant trusts (RFC 8693).",
    payload: z.object({
      subject_token: z.string().min(1).max(subjectTokenCharsMax),
      subject_token_type: z.enum(subjectTokenTypes),
      /** Whom the caller means, where several tenants trust the issuer. */
      tenant_id: tenantId.optional(),
      scope: scope.optional(),
      ...presented,
    }),
    reply: granted,
    codes: ["INVALID_GRANT", "INVALID_SCOPE"],
    identity: "none",
    limits: refreshLimits,
  }),
  revokeToken: defineRequest({
    owner: "auth",
    name: "auth.token.revoke.v1",
    summary: "End a refresh token and all of its family; an unknown one is no fault.",
    payload: z.object({ token_sha256: sha256, ...presented }),
    reply: z.object({}),
    codes: [],
    identity: "none",
    limits: ["failures-by-address"],
  }),
} as const;
