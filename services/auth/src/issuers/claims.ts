import type { MappedRole } from "@muster/contracts/issuers";
import type { Role } from "@muster/contracts/principal";
import { highestOf, lowerOf } from "../accounts/rules.ts";
import type { Rank } from "../accounts/rules.ts";

/** Claims as an issuer wrote them. */
export type Claims = Readonly<Record<string, unknown>>;

/** An issuer as one tenant trusts it. */
export interface TrustedIssuer {
  readonly id: string;
  readonly tenantId: string;
  readonly issuer: string;
  readonly audience: string;
  /** Null: what its discovery document says. */
  readonly jwksUri: string | null;
  readonly algorithms: readonly string[];
  /** Where the claim is that must be the tenant's id; null: all its tokens are for this tenant. */
  readonly tenantClaim: string | null;
  readonly rolesClaim: string;
  readonly roleMap: readonly MappedRole[];
  readonly roleMax: Role;
}

/** `a.b`, or a JSON Pointer (RFC 6901). Own members of objects only. */
export function claimAt(claims: Claims, path: string): unknown {
  let value: unknown = claims;
  for (const name of namesOf(path)) {
    if (!isObject(value) || !Object.hasOwn(value, name)) return undefined;
    value = value[name];
  }
  return value;
}

function namesOf(path: string): string[] {
  if (!path.startsWith("/")) return path.split(".");
  const parts = path.slice(1).split("/");
  return parts.map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
}

/** RFC 7519 §4.1.3: one text or a list of them. */
export function audiencesOf(claims: Claims): string[] {
  return textsOf(claims["aud"]);
}

/** Texts anywhere in the claims that could be a tenant's id: which tenants to look for. */
export function tenantsNamed(claims: Claims): string[] {
  const found = new Set<string>();
  const open: unknown[] = [claims];
  while (open.length > 0) {
    const value = open.pop();
    if (typeof value === "string" && /^[a-z0-9][a-z0-9-]{0,62}$/.test(value)) found.add(value);
    else if (Array.isArray(value) || isObject(value)) open.push(...Object.values<unknown>(value));
  }
  return [...found];
}

/**
 * The one that a token is for, of those that are trusted with its issuer and one of its audiences. A tenant that the token
 * itself names goes before those for whom every token is good enough: what another tenant trusts takes nobody's tokens away.
 */
export function meantBy(
  trusted: readonly TrustedIssuer[],
  claims: Claims,
): TrustedIssuer | "none" | "ambiguous" {
  const named = trusted.filter(
    ({ tenantClaim, tenantId }) => tenantClaim !== null && claimAt(claims, tenantClaim) === tenantId,
  );
  const meant = named.length > 0 ? named : trusted.filter(({ tenantClaim }) => tenantClaim === null);
  if (new Set(meant.map(({ tenantId }) => tenantId)).size > 1) return "ambiguous";
  const audiences = audiencesOf(claims);
  // Of one tenant's several, the audience that the token has first.
  const [first] = meant.toSorted((a, b) => audiences.indexOf(a.audience) - audiences.indexOf(b.audience));
  return first ?? "none";
}

/** What the issuer's word is worth: the highest role that fits, and never above `roleMax`. Undefined: nothing fits. */
export function rankBy(
  issuer: Pick<TrustedIssuer, "rolesClaim" | "roleMap" | "roleMax">,
  claims: Claims,
): Rank | undefined {
  const values = textsOf(claimAt(claims, issuer.rolesClaim));
  const fitting = issuer.roleMap.filter(({ value }) => values.includes(value));
  const highest = highestOf(fitting.map(({ role }) => role));
  if (highest === undefined) return undefined;
  return {
    role: lowerOf(highest, issuer.roleMax),
    permissions: [...new Set(fitting.flatMap(({ permissions }) => permissions))],
  };
}

/** By what others recognise the user; for people to read only. */
export function nameBy(claims: Claims, subject: string): string {
  const shown = ["name", "preferred_username", "email"].flatMap((claim) => textsOf(claims[claim]));
  const text = (shown[0] ?? subject).replaceAll(/[\p{Cc}\p{Cs}]/gu, "\u{fffd}").trim();
  return Array.from(text === "" ? subject : text)
    .slice(0, 128)
    .join("");
}

function textsOf(value: unknown): string[] {
  const list: unknown[] = Array.isArray(value) ? value : [value];
  return list.filter((one) => typeof one === "string");
}

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
