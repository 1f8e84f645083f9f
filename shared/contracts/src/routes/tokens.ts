import { z } from "zod";
import { tenantId, timestamp, uuid } from "../ids.ts";
import { principal } from "../principal.ts";
import { agentTokens } from "../pairing.ts";
import { defineRoute } from "../route.ts";
import { scope, subjectTokenCharsMax, subjectTokenTypes, tokenLimits, tokenRequests } from "../tokens.ts";

const api = "/api/v1";
const bodyBytesMax = 16 * 1024;
const tokenBytesMax = 8 * 1024 + subjectTokenCharsMax;

/** RFC 8693. */
export const tokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange";
const accessTokenUrn = "urn:ietf:params:oauth:token-type:access_token";
/** RFC 7523. */
export const jwtBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const tokenGrants = ["client_credentials", "refresh_token", tokenExchange, jwtBearer] as const;

const needed = {
  client_credentials: [],
  refresh_token: ["refresh_token"],
  [tokenExchange]: ["subject_token", "subject_token_type"],
  [jwtBearer]: ["assertion"],
  none: [],
} as const;
const allowed = {
  client_credentials: ["client_id", "client_secret", "scope"],
  refresh_token: ["refresh_token", "scope"],
  [tokenExchange]: ["subject_token", "subject_token_type", "requested_token_type", "audience", "scope"],
  [jwtBearer]: ["assertion"],
  none: ["scope"],
} as const;

const tokenBody = z
  .strictObject({
    grant_type: z
      .enum(tokenGrants)
      .optional()
      .describe("Without one, the bearer is an API key that is exchanged."),
    client_id: uuid.optional().describe("A service account; or as the user of HTTP Basic."),
    client_secret: z
      .string()
      .max(128)
      .optional()
      .describe("An API key of that service account; or as the password of HTTP Basic."),
    refresh_token: z.string().max(128).optional(),
    subject_token: z
      .string()
      .max(subjectTokenCharsMax)
      .optional()
      .describe("A token of an issuer that a tenant trusts; see /api/v1/auth/issuers."),
    subject_token_type: z.enum(subjectTokenTypes).optional(),
    requested_token_type: z
      .literal(accessTokenUrn)
      .optional()
      .describe("An access token is what there is to be had."),
    audience: tenantId
      .optional()
      .describe("The tenant that is meant; needed where several trust the issuer for the same tokens."),
    assertion: z
      .string()
      .max(4_096)
      .optional()
      .describe(
        "An agent's: a JWS by the key it was paired with, aud `muster:token`, sub its id, of use once.",
      ),
    scope: scope
      .optional()
      .describe(
        "A role and permissions, with spaces between: the token carries these alone; by default all that the credential has. offline_access: a refresh token too.",
      ),
  })
  .superRefine((body, context) => {
    const grant = body.grant_type ?? "none";
    const given = Object.entries(body).flatMap(([key, value]) => (value === undefined ? [] : key));
    const say = (path: string, message: string) =>
      context.addIssue({ code: "custom", path: [path], message });
    for (const key of needed[grant]) if (!given.includes(key)) say(key, `is needed for grant_type ${grant}`);
    for (const key of given) {
      if (key === "grant_type" || allowed[grant].some((one) => one === key)) continue;
      say(key, grant === "none" ? "needs a grant_type" : `does not belong to grant_type ${grant}`);
    }
  });

/** Tokens by the grants of OAuth 2.0; the errors are the house's, whose codes name OAuth's. */
export const tokenRoutes = {
  exchangeApiKey: defineRoute({
    method: "POST",
    path: `${api}/auth/token`,
    summary:
      "A short-lived access token for an API key sent as the bearer, client credentials, a refresh token, a trusted issuer's token or an agent's assertion.",
    tag: "auth",
    access: "credentials",
    limits: tokenLimits,
    body: tokenBody,
    form: true,
    bodyBytesMax: tokenBytesMax,
    idempotencyKey: true,
    status: 200,
    reply: z.object({
      access_token: z.string(),
      token_type: z.literal("Bearer"),
      issued_token_type: z.literal(accessTokenUrn).optional().describe("In exchange for a subject token."),
      expires_in_seconds: z.number().int(),
      principal,
      scope: z.string().optional().describe("What was granted, where a grant or a scope was named."),
      refresh_token: z
        .string()
        .optional()
        .describe("Instead of the one before, which ends with its first use."),
      refresh_expires_at: timestamp.optional(),
      agent: agentTokens
        .pick({ agent_id: true, epoch: true, vm_uuids: true, login_token: true, broker_url: true })
        .optional()
        .describe("For an agent's assertion: the access token is the broker's, and so is this."),
    }),
    codes: ["INVALID_CLIENT", "INVALID_GRANT", "INVALID_SCOPE"],
  }),
  revokeToken: defineRoute({
    method: "POST",
    path: `${api}/auth/revoke`,
    summary:
      "End a refresh token and all that came of the same exchange (RFC 7009). An unknown token is no fault.",
    tag: "auth",
    access: "public",
    limits: tokenRequests.revokeToken.limits,
    body: z.strictObject({
      token: z.string().min(1).max(4_096),
      token_type_hint: z.string().max(64).optional().describe("Not needed; access tokens end by themselves."),
    }),
    form: true,
    bodyBytesMax,
    status: 200,
    reply: z.object({}),
    codes: [],
  }),
} as const;
