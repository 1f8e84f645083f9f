import { z } from "zod";
import { page } from "./commands.ts";
import { defineEvent, defineRequest } from "./define.ts";
import { tenantId, timestamp } from "./ids.ts";
import { principal } from "./principal.ts";
import { cursor, limit } from "./vm-ops.ts";

/**
 * Access tokens that are void though they live: those of this subject, or of the whole tenant, that were made from what auth
 * knew before this instant, by the database's clock. A token tells that instant in `as_of` (milliseconds since 1970; one
 * without it, in `iat`), and its subjects in `sub` and `via`.
 */
export const tokenRevocation = z.object({
  tenant_id: tenantId,
  /** An account, or what tokens were exchanged for: `api-key:<uuid>`, `refresh-family:<uuid>`, `issuer:<uuid>`. Null: all. */
  subject: principal.shape.subject.nullable(),
  not_before: timestamp,
  /** When the last such token has expired by itself. */
  until: timestamp,
  /** What happened, such as `account-disabled`. */
  reason: z.string().regex(/^[a-z]+(-[a-z]+)*$/),
});
export type TokenRevocation = z.infer<typeof tokenRevocation>;

/** Every process that verifies hears it on a queue of its own, so no subscription binds it; others may. */
export const tokensRevoked = defineEvent({
  owner: "auth",
  name: "auth.tokens.revoked.v1",
  summary:
    "Access tokens are void though they live: of an account that was disabled or lost rights, for example.",
  external: true,
  payload: tokenRevocation,
});

export const revocationRequests = {
  listTokenRevocations: defineRequest({
    owner: "auth",
    name: "auth.token-revocations.list.v1",
    callers: ["gateway", "vm-ops", "reliability", "secrets"],
    summary: "The access tokens that are void though they live, for who starts or may have missed an event.",
    payload: z.object({ limit, cursor: cursor.optional() }),
    reply: page(tokenRevocation),
    codes: ["CURSOR_INVALID"],
    identity: "none",
  }),
} as const;
