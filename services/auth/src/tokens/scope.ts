import type { FaultDetail } from "@muster/contracts/errors";
import { role } from "@muster/contracts/principal";
import type { Principal, Role } from "@muster/contracts/principal";
import { offlineAccess } from "@muster/contracts/tokens";
import { highestOf, isAbove, lowerOf } from "../accounts/rules.ts";

/** Names of roles and permissions; null asks for all that is there. */
export type Scope = readonly string[] | null;

export interface AskedScope {
  readonly scope: Scope;
  /** `offline_access`: a refresh token too. */
  readonly offline: boolean;
}

/** RFC 6749 §3.3: words with spaces between, in any order. Naming nothing but `offline_access` narrows nothing. */
export function scopeOf(text: string | undefined): AskedScope {
  const words = [...new Set((text ?? "").split(" ").filter((word) => word !== ""))];
  const names = words.filter((word) => word !== offlineAccess);
  return { scope: names.length === 0 ? null : names, offline: names.length < words.length };
}

const roleOf = (word: string): Role | undefined => role.safeParse(word).data;
const rolesIn = (scope: readonly string[]): Role[] => scope.flatMap((word) => roleOf(word) ?? []);

/** What is asked for beyond what is there. */
export function scopeFaults(who: Principal, scope: Scope): FaultDetail[] {
  const held = highestOf(who.roles);
  const beyond = (scope ?? []).filter((word) => {
    const asked = roleOf(word);
    if (asked === undefined) return !who.permissions.includes(word);
    return held === undefined || isAbove(asked, held);
  });
  return beyond.map((word) => ({ path: "scope", message: `${word} is more than the grant has` }));
}

/** Exactly what the scope names, where it is there: no role unless it names one, and never more than `who` has. */
export function narrowed(who: Principal, scope: Scope): Principal {
  if (scope === null) return who;
  const held = highestOf(who.roles);
  const named = highestOf(rolesIn(scope));
  return {
    ...who,
    roles: held === undefined || named === undefined ? [] : [lowerOf(held, named)],
    permissions: who.permissions.filter((permission) => scope.includes(permission)),
  };
}

/** What was granted, as an answer says it. */
export function scopeText(who: Principal, offline: boolean): string {
  return [...who.roles, ...who.permissions, ...(offline ? [offlineAccess] : [])].join(" ");
}
