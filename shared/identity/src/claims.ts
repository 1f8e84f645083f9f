import { meshTokenLifeMaxSeconds } from "@muster/contracts/mesh-keys";
import { isShadowTenant, principal, shadowSubject } from "@muster/contracts/principal";
import type { Principal } from "@muster/contracts/principal";
import { decodeJwt } from "jose";
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
  /** Milliseconds since 1970: the last revocation of the tenant that it was made after. */
  as_of: z.number().int().positive().optional(),
  /** What it was exchanged for, such as `api-key:<id>`. */
  via: z.array(z.string().max(128)).max(4).default([]),
});

/** What a token was made from: what is revoked of it later makes it void. */
export interface Origin {
  /** Without a claim that says so, the second in which it was issued, from its begin. */
  readonly asOfMs: number;
  readonly via: readonly string[];
}

export interface Verified {
  readonly principal: Principal;
  readonly expiresAtMs: number;
  readonly origin: Origin;
}

/** For whom a service asks another. */
export type Caller = Pick<Verified, "principal"> & {
  /** What the token that was verified here was made from: as if it went along itself, what is revoked of it ends what it began. */
  readonly origin: () => Origin;
};

const meshClaims = accessClaims.extend({
  /** Wire name of the one request that the token is for. */
  req: z.string().min(1).max(255),
  nbf: z.number().int().positive(),
  // Of the token that the caller brought, never this one's own: without them no revocation would reach it.
  as_of: z.number().int().positive(),
  via: z.array(z.string().max(128)).max(4),
});

export interface VerifiedFor extends Verified {
  readonly req: string;
}

/** Of a token between services, which lives no longer than a request may wait. Throws a ZodError. */
export function readMeshClaims(payload: unknown): VerifiedFor {
  const claims = meshClaims
    .refine(({ exp, iat }) => exp - iat <= meshTokenLifeMaxSeconds, { path: ["exp"] })
    .parse(payload);
  return { ...readClaims(payload), req: claims.req };
}

/** Throws a ZodError when a claim is missing or not of its shape; a token without a tenant is such. */
export function readClaims(payload: unknown): Verified {
  const claims = accessClaims.parse(payload);
  const { sub, tenant_id, roles, permissions } = claims;
  return {
    principal: Object.freeze({ tenant_id, subject: sub, roles, permissions }),
    expiresAtMs: claims.exp * 1_000,
    origin: { asOfMs: claims.as_of ?? claims.iat * 1_000, via: claims.via },
  };
}

/** The same of a token that came from the issuer itself: nothing is verified. Throws for what is no token. */
export const readTrusted = (token: string): Verified => readClaims(decodeJwt(token));
