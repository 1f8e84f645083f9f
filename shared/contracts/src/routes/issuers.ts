import { z } from "zod";
import { uuid } from "../ids.ts";
import { issuerView, newIssuer } from "../issuers.ts";
import { defineRoute, pageFields } from "../route.ts";

const path = "/api/v1/auth/issuers";
const byId = z.object({ id: uuid });

/** Outside issuers whose tokens a tenant takes in exchange for its own. */
export const issuerRoutes = {
  createIssuer: defineRoute({
    method: "POST",
    path,
    summary: "Trust an OpenID Connect issuer: its tokens can be exchanged at POST /api/v1/auth/token.",
    tag: "auth",
    access: "owner",
    body: newIssuer,
    status: 201,
    reply: z.object({ issuer: issuerView }),
    codes: ["ISSUER_ALREADY_EXISTS", "ISSUERS_TOO_MANY", "IDEMPOTENCY_KEY_REUSED"],
  }),
  listIssuers: defineRoute({
    method: "GET",
    path,
    summary: "List the issuers that the tenant trusts or has trusted, newest first.",
    tag: "auth",
    access: "owner",
    query: z.strictObject(pageFields),
    status: 200,
    reply: z.object({ issuers: z.array(issuerView) }),
    meta: "cursor",
    codes: [],
  }),
  getIssuer: defineRoute({
    method: "GET",
    path: `${path}/{id}`,
    summary: "Read one issuer.",
    tag: "auth",
    access: "owner",
    params: byId,
    status: 200,
    reply: z.object({ issuer: issuerView }),
    codes: ["ISSUER_NOT_FOUND"],
  }),
  removeIssuer: defineRoute({
    method: "DELETE",
    path: `${path}/{id}`,
    summary: "Trust an issuer no more: its tokens are refused from now on. Again is harmless.",
    tag: "auth",
    access: "owner",
    params: byId,
    status: 200,
    reply: z.object({ issuer: issuerView }),
    codes: ["ISSUER_NOT_FOUND"],
  }),
} as const;
