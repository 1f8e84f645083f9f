import { roles as allRoles } from "@muster/contracts/principal";
import type { Principal, Role } from "@muster/contracts/principal";

export interface KeyHolder {
  readonly tenantId: string;
  readonly kind: "user" | "service-account";
  readonly principalId: string;
  readonly roles: readonly Role[];
  readonly permissions: readonly string[];
  /** Scopes of the key; null is all that its holder has. */
  readonly roleMax: Role | null;
  readonly keyPermissions: readonly string[] | null;
}

/** Who a key makes of whoever presents it: its holder, cut down to the key's scopes. */
export function grantOf(holder: KeyHolder): Principal {
  const { roleMax, keyPermissions } = holder;
  const highest = Math.max(...holder.roles.map((role) => allRoles.indexOf(role)));
  const allowed = roleMax === null ? highest : Math.min(highest, allRoles.indexOf(roleMax));
  const role = allRoles[allowed];
  return {
    tenant_id: holder.tenantId,
    subject: `${holder.kind}:${holder.principalId}`,
    roles: role === undefined ? [] : [role],
    permissions:
      keyPermissions === null
        ? [...holder.permissions]
        : holder.permissions.filter((permission) => keyPermissions.includes(permission)),
  };
}
