import type { RequestContext } from "@muster/broker/broker";
import { MusterError } from "@muster/contracts/errors";
import { hasRole } from "@muster/contracts/principal";
import type { Principal, Role } from "@muster/contracts/principal";

/** Reads material back, whatever the role. */
export const readPermission = "secrets.read";

export interface Caller {
  readonly tenantId: string;
  /** `user:<uuid>` */
  readonly subject: string;
}

/** Throws MISSING_BEARER_TOKEN where nobody asks, FORBIDDEN below the role. */
export function callerOf(context: Pick<RequestContext, "principal">, atLeast: Role): Caller {
  const principal = principalOf(context);
  if (hasRole(principal, atLeast)) return { tenantId: principal.tenant_id, subject: principal.subject };
  throw forbidden("role", `needs the role ${atLeast} or a higher one`);
}

/** Who may read material. Throws MISSING_BEARER_TOKEN, FORBIDDEN. */
export function readerOf(context: Pick<RequestContext, "principal">): Caller {
  const principal = principalOf(context);
  if (principal.permissions.includes(readPermission)) return callerOf(context, "member");
  throw forbidden("permission", `needs the permission ${readPermission}`);
}

export const scopeOf = ({ tenantId }: Pick<Caller, "tenantId">) => ({ tenants: [tenantId] });

function principalOf({ principal }: Pick<RequestContext, "principal">): Principal {
  if (principal === undefined) throw new MusterError("MISSING_BEARER_TOKEN");
  return principal;
}

function forbidden(path: string, message: string): MusterError {
  return new MusterError("FORBIDDEN", undefined, { details: [{ path, message }] });
}
