import { isShadowTenant, principal, shadowSubject } from "@muster/contracts/principal";
import type { Principal } from "@muster/contracts/principal";
import { z } from "zod";

/** Claims of an access token (RFC 9068) that we use; jose has checked iss, aud, exp, nbf and iat before. */
const accessClaims = z.object({
  /** One audience: a token that others may hold too is none of ours, though a list may name us. */
  aud: z.string(),
  // Nobody is given a token of the shadow: it is what shadow mode makes of those who have none.
  sub: principal.shape.subject.refine((subject) => subject !== shadowSubject),
  tenant_id: principal.shape.tenant_id.refine((tenant) => !isShadowTenant(tenant)),
  roles: principal.shape.roles.default([]),
  permissions: principal.shape.permissions.default([]),
  jti: z.string().min(1).max(128),
  exp: z.number().int().positive(),
  iat: z.number().int().positive(),
});

export interface Verified {
  readonly principal: Principal;
  readonly expiresAtMs: number;
}

/** Throws a ZodError when a claim is missing or not of its shape; a token without a tenant is such. */
export function readClaims(payload: unknown): Verified {
  const claims = accessClaims.parse(payload);
  const { sub, tenant_id, roles, permissions } = claims;
  return {
    principal: Object.freeze({ tenant_id, subject: sub, roles, permissions }),
    expiresAtMs: claims.exp * 1_000,
  };
}
