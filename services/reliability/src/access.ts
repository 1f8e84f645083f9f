import { MusterError } from "@muster/contracts/errors";
import { hasRole } from "@muster/contracts/principal";
import type { Principal, Role } from "@muster/contracts/principal";

/** Who asks. Throws MISSING_BEARER_TOKEN when nobody does. */
export function callerOf(context: { readonly principal?: Principal | undefined }): Principal {
  if (context.principal === undefined) throw new MusterError("MISSING_BEARER_TOKEN");
  return context.principal;
}

/** Who asks, if they hold at least this role; else FORBIDDEN. */
export function callerWithRole(
  context: { readonly principal?: Principal | undefined },
  atLeast: Role,
): Principal {
  const caller = callerOf(context);
  if (hasRole(caller, atLeast)) return caller;
  const details = [{ path: "header.authorization", message: `needs role ${atLeast}` }];
  throw new MusterError("FORBIDDEN", undefined, { details });
}

/** The rows that the caller may see. */
export const scopeOf = (caller: Principal) => ({ tenants: [caller.tenant_id] });
