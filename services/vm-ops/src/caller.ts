import { MusterError } from "@muster/contracts/errors";
import { hasRole } from "@muster/contracts/principal";
import type { Principal, Role } from "@muster/contracts/principal";
import type { RequestContext } from "@muster/broker/broker";

/** Whose request this is. Agents speak by reports, never by requests. Throws FORBIDDEN. */
export function callerOf(context: RequestContext, atLeast: Role): Principal {
  const { principal } = context;
  if (principal === undefined) throw new MusterError("MISSING_BEARER_TOKEN");
  if (hasRole(principal, atLeast)) return principal;
  throw new MusterError("FORBIDDEN", undefined, {
    details: [{ path: "role", message: `needs the role ${atLeast} or a higher one` }],
  });
}
