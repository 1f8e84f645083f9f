import { roles } from "@muster/contracts/principal";
import type { Role } from "@muster/contracts/principal";
import type { FaultDetail } from "@muster/contracts/errors";

/** What somebody may do at the moment. */
export interface Rank {
  readonly role: Role;
  readonly permissions: readonly string[];
}

const height = (role: Role): number => roles.indexOf(role);

/** Undefined where none is held: an agent or a shadow. */
export function highestOf(held: readonly Role[]): Role | undefined {
  return roles[Math.max(-1, ...held.map(height))];
}

export const lowerOf = (one: Role, other: Role): Role => (height(one) <= height(other) ? one : other);
export const isAbove = (one: Role, other: Role): boolean => height(one) > height(other);

/** Nobody gives more than he has; an owner has every permission to give. Empty: it may be given. */
export function grantFaults(
  giver: Rank,
  given: { readonly role?: Role | undefined; readonly permissions?: readonly string[] | undefined },
): FaultDetail[] {
  const faults: FaultDetail[] = [];
  if (given.role !== undefined && isAbove(given.role, giver.role)) {
    faults.push({ path: "role", message: `only an ${given.role} can give the role ${given.role}` });
  }
  if (giver.role === "owner") return faults;
  for (const permission of given.permissions ?? []) {
    if (giver.permissions.includes(permission)) continue;
    faults.push({ path: "permissions", message: `needs ${permission} itself, or the role owner` });
  }
  return faults;
}

/** An account is changed by its equals and by those above it. */
export const mayChange = (changer: Rank, target: Role): boolean => !isAbove(target, changer.role);

/**
 * Whoever makes a key can act as its holder: for oneself, for a service account that is not above, for a user who is
 * below. Of an equal, nobody can make himself a double.
 */
export function mayHoldKeyOf(
  maker: Rank & { readonly principalId: string },
  holder: { readonly id: string; readonly kind: "user" | "service-account"; readonly role: Role },
): boolean {
  if (holder.id === maker.principalId) return true;
  if (maker.role === "member") return false;
  return holder.kind === "service-account"
    ? !isAbove(holder.role, maker.role)
    : isAbove(maker.role, holder.role);
}

/**
 * The scopes of a new key: at most what its maker has now, so that no key outgrows the one who made it,
 * whatever its holder becomes. Call `grantFaults` on what was asked for before.
 */
export function scopesOf(
  maker: Rank,
  holder: Rank,
  asked: { readonly role_max?: Role | undefined; readonly permissions?: readonly string[] | undefined },
): { role_max: Role; permissions: string[] } {
  const held = (permission: string) => maker.role === "owner" || maker.permissions.includes(permission);
  return {
    role_max: lowerOf(asked.role_max ?? lowerOf(maker.role, holder.role), maker.role),
    permissions: [...new Set((asked.permissions ?? holder.permissions).filter(held))],
  };
}
