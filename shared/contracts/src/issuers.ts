import { z } from "zod";
import { permission } from "./accounts.ts";
import { page } from "./commands.ts";
import { defineRequest } from "./define.ts";
import { timestamp, uuid } from "./ids.ts";
import { role } from "./principal.ts";
import { cursor, idempotencyKey, limit } from "./vm-ops.ts";

/** By which an issuer's tokens may be signed: asymmetric ones only (RFC 7518, RFC 8037). */
const rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] as const;
export const issuerAlgorithms = [...rsa, "ES256", "ES384", "ES512", "EdDSA"] as const;
export type IssuerAlgorithm = (typeof issuerAlgorithms)[number];

const address = z
  .string()
  .max(512)
  .regex(/^https?:\/\/[!-~]+$/, "must be an address like https://login.example.org/realms/acme");

/** `realm_access.roles`, or a JSON Pointer (RFC 6901) where a name has dots: `/https:~1~1example.org~1roles`. */
export const claimPath = z
  .string()
  .max(512)
  .regex(
    /^([!-\-0-~][!-\-/-~]{0,127}(\.[!-\-/-~]{1,128}){0,7}|(\/([!-.0-}]|~[01]){1,128}){1,8})$/,
    "must be names with dots between, like realm_access.roles, or a JSON Pointer, like /realm_access/roles",
  );

const claimValue = z
  .string()
  .min(1)
  .max(256)
  .regex(/^[^\p{Cc}]+$/u, "must not contain control characters");

const mappedRole = z.strictObject({
  value: claimValue.describe("Of the claim, or one of its values where it is a list."),
  role,
  permissions: z.array(permission).max(64).default([]),
});
export type MappedRole = z.output<typeof mappedRole>;

export const newIssuer = z.strictObject({
  issuer: address.describe("Exactly as its tokens have it in `iss`."),
  audience: z
    .string()
    .regex(/^[!-~]{1,256}$/, "must be 1 to 256 visible ASCII characters")
    .describe("What its tokens must have in `aud`."),
  jwks_uri: address
    .optional()
    .describe("Where its keys are; by default what its /.well-known/openid-configuration says."),
  algorithms: z.array(z.enum(issuerAlgorithms)).min(1).max(10).default(["RS256", "ES256", "EdDSA"]),
  tenant_claim: claimPath
    .optional()
    .describe(
      "The claim that must be this tenant's id. Without one, every token for the audience is for this tenant.",
    ),
  roles_claim: claimPath.describe("The claim that has the roles, a text or a list: realm_access.roles"),
  role_map: z
    .array(mappedRole)
    .min(1)
    .max(100)
    .describe("The highest role of what fits, and the permissions of all that fits."),
  role_max: role.default("admin").describe("Nobody gets a role above this one by the issuer's word."),
});

export const issuerView = z.object({
  id: uuid,
  issuer: z.string(),
  audience: z.string(),
  jwks_uri: z.string().nullable(),
  algorithms: z.array(z.string()),
  tenant_claim: z.string().nullable(),
  roles_claim: z.string(),
  role_map: z.array(z.object({ value: z.string(), role, permissions: z.array(z.string()) })),
  role_max: role,
  created_at: timestamp,
  removed_at: timestamp.nullable(),
});
export type IssuerView = z.infer<typeof issuerView>;

/** Outside issuers of tokens that a tenant trusts; for its owners. */
export const issuerRequests = {
  createIssuer: defineRequest({
    owner: "auth",
    name: "auth.issuer.create.v1",
    summary: "Trust an issuer outside: its tokens can be exchanged for access tokens of this tenant.",
    payload: z.object({ issuer: newIssuer, idempotency_key: idempotencyKey.optional() }),
    reply: z.object({ issuer: issuerView, replayed: z.boolean() }),
    codes: ["ISSUER_ALREADY_EXISTS", "ISSUERS_TOO_MANY", "IDEMPOTENCY_KEY_REUSED"],
  }),
  listIssuers: defineRequest({
    owner: "auth",
    name: "auth.issuer.list.v1",
    summary: "List the issuers that the tenant trusts or has trusted, newest first.",
    payload: z.object({ limit, cursor: cursor.optional() }),
    reply: page(issuerView),
    codes: ["CURSOR_INVALID"],
  }),
  getIssuer: defineRequest({
    owner: "auth",
    name: "auth.issuer.get.v1",
    summary: "Read one issuer of the tenant.",
    payload: z.object({ id: uuid }),
    reply: issuerView,
    codes: ["ISSUER_NOT_FOUND"],
  }),
  removeIssuer: defineRequest({
    owner: "auth",
    name: "auth.issuer.remove.v1",
    summary: "Trust an issuer no more: its tokens are refused from now on. Again is harmless.",
    payload: z.object({ id: uuid }),
    reply: issuerView,
    codes: ["ISSUER_NOT_FOUND"],
  }),
} as const;
