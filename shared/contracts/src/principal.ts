import { z } from "zod";
import { tenantId } from "./ids.ts";

/** Least to most: each may do what those before it may. */
export const roles = ["member", "admin", "owner"] as const;
export const role = z.enum(roles);
export type Role = z.infer<typeof role>;

/** Who acts: belongs to exactly one tenant. */
export const principal = z.object({
  tenant_id: tenantId,
  /** `user:<uuid>`, `service-account:<uuid>`, `agent:<uuid>` or `shadow`. */
  subject: z.string().min(1).max(128),
  roles: z.array(role).max(3),
  permissions: z.array(z.string().max(64)).max(64),
});
export type Principal = z.infer<typeof principal>;

export function hasRole(who: Pick<Principal, "roles">, atLeast: Role): boolean {
  return who.roles.some((held) => roles.indexOf(held) >= roles.indexOf(atLeast));
}

/** Access tokens: RFC 9068 `typ`, and the one audience of the gateway and the mesh. */
export const accessTokenType = "at+jwt";
export const accessTokenIssuer = "https://auth.muster";
export const accessTokenAudience = "muster";
export const accessTokenAlgorithms = ["EdDSA", "ES256"] as const;

/**
 * Whoever shadow mode lets through acts in a tenant whose id begins so. No real tenant's does, whatever any process is set to:
 * two services that disagree about the mode or the id still meet in no real tenant.
 */
export const shadowTenantPrefix = "shadow-";
export const isShadowTenant = (tenant: string): boolean => tenant.startsWith(shadowTenantPrefix);
export const shadowTenantDefault = "shadow-tenant";
export const shadowSubject = "shadow";
