import type { RequestContext } from "@muster/broker/broker";
import { MusterError } from "@muster/contracts/errors";
import { uuid } from "@muster/contracts/ids";
import { hasRole, role } from "@muster/contracts/principal";
import type { Principal, Role } from "@muster/contracts/principal";
import type { Tx } from "@muster/database/database";
import { z } from "zod";
import { highestOf, lowerOf } from "./accounts/rules.ts";
import type { Rank } from "./accounts/rules.ts";

/** Whoever asks, as he is now: what the token says, cut down to what the account still has. */
export interface Caller extends Rank {
  readonly tenantId: string;
  readonly principalId: string;
  /** `user:<uuid>` */
  readonly subject: string;
}

const currentRow = z.object({ roles: z.array(role), permissions: z.array(z.string()) });

/** The tenant's scope. Throws MISSING_BEARER_TOKEN where the message brought no identity. */
export function scopeOf(context: RequestContext): { tenants: [string] } {
  return { tenants: [principalOf(context).tenant_id] };
}

function principalOf({ principal }: RequestContext): Principal {
  if (principal === undefined) throw new MusterError("MISSING_BEARER_TOKEN");
  return principal;
}

/**
 * Throws FORBIDDEN below the role, INVALID_OR_MISSING_BEARER_TOKEN when the account or its tenant was disabled, or the
 * issuer that vouches for it removed, since the token was made: here a token says no more than the row does.
 */
export async function callerOf(tx: Tx, context: RequestContext, atLeast: Role): Promise<Caller> {
  const principal = principalOf(context);
  refuseBelow(principal, atLeast);
  const [kind, id] = principal.subject.split(":");
  if (!(kind === "user" || kind === "service-account") || !uuid.safeParse(id).success || id === undefined) {
    const details = [{ path: "subject", message: "needs a user or a service account" }];
    throw new MusterError("FORBIDDEN", undefined, { details });
  }
  const [found] = await tx.query(
    `SELECT p.roles, p.permissions FROM principals p JOIN tenants t ON t.tenant_id = p.tenant_id
      WHERE p.tenant_id = $1 AND p.id = $2 AND p.kind = $3 AND p.disabled_at IS NULL AND t.state = 'active'
        AND (p.external_issuer IS NULL OR EXISTS (SELECT 1 FROM issuers i
          WHERE i.issuer = p.external_issuer AND i.tenant_id = p.tenant_id AND i.removed_at IS NULL))`,
    [principal.tenant_id, id, kind],
  );
  if (found === undefined) throw new MusterError("INVALID_OR_MISSING_BEARER_TOKEN");
  const current = currentRow.parse(found);
  refuseBelow(current, atLeast);
  const told = highestOf(principal.roles) ?? "member";
  return {
    tenantId: principal.tenant_id,
    principalId: id,
    subject: principal.subject,
    role: lowerOf(told, highestOf(current.roles) ?? "member"),
    permissions: principal.permissions.filter((permission) => current.permissions.includes(permission)),
  };
}

/** The same for a change: changes of one tenant's accounts and keys go one after the other. */
export async function changerOf(tx: Tx, context: RequestContext, atLeast: Role): Promise<Caller> {
  const { tenant_id } = principalOf(context);
  // Before anything is read: who is whose last owner must not change under us.
  await tx.query("SELECT 1 FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE", [tenant_id]);
  return await callerOf(tx, context, atLeast);
}

/** Throws FORBIDDEN but to owners of the operator's tenant: what they change concerns every tenant. */
export function refuseUnlessOperator(
  caller: Pick<Caller, "tenantId" | "role">,
  operatorTenantId: string,
): void {
  if (caller.tenantId === operatorTenantId && caller.role === "owner") return;
  const details = [{ path: "tenant", message: "needs the role owner in the operator's tenant" }];
  throw new MusterError("FORBIDDEN", undefined, { details });
}

function refuseBelow(who: Pick<Principal, "roles">, atLeast: Role): void {
  if (hasRole(who, atLeast)) return;
  const details = [{ path: "role", message: `needs the role ${atLeast} or a higher one` }];
  throw new MusterError("FORBIDDEN", undefined, { details });
}
