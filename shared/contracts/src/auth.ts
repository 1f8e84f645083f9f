import { z } from "zod";
import { defineBatchRequest, defineRequest } from "./define.ts";
import { sha256 } from "./ids.ts";
import { principal } from "./principal.ts";

/** API keys read `mk_<prefix>_<secret>`; the prefix may be shown, the secret is known to its holder alone. */
export const apiKeyPattern = /^mk_[a-z0-9]{10}_[A-Za-z0-9_-]{43}$/;

const jwk = z.looseObject({ kty: z.string(), kid: z.string(), alg: z.string(), use: z.literal("sig") });
export const jwks = z.object({ keys: z.array(jwk).max(20) });
export type Jwks = z.infer<typeof jwks>;

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
    }),
    reply: z.object({
      access_token: z.string().max(4_096),
      expires_in_seconds: z.number().int().min(1),
      principal,
    }),
    codes: [],
    identity: "none",
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
} as const;
