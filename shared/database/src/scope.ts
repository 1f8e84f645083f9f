import { tenantId } from "@muster/contracts/ids";

/**
 * What a transaction may see. A tenant scope sees rows of these tenants only (an empty list sees nothing);
 * "system" runs as the schema's system role and sees all tenants: sweeps, relays, batch consumers.
 */
export type Scope = { readonly tenants: readonly string[] } | "system";

export const tenantsPerScopeMax = 1_000;

export interface BeginOptions {
  readonly isolation?: "read committed" | "repeatable read" | "serializable";
  readonly readOnly?: boolean;
}

/**
 * The text that opens a transaction in one round trip. Tenant ids stand in it literally, so each one is
 * held against its schema first; no id that passes has a quote in it.
 */
export function beginText(scope: Scope, systemRole: string, options: BeginOptions = {}): string {
  const isolation =
    options.isolation === undefined ? "" : ` ISOLATION LEVEL ${options.isolation.toUpperCase()}`;
  const begin = `BEGIN${isolation}${options.readOnly === true ? " READ ONLY" : ""}`;
  if (scope === "system") return `${begin}; SET LOCAL ROLE "${systemRole}"`;
  if (scope.tenants.length > tenantsPerScopeMax) {
    throw new RangeError(
      `a scope of ${scope.tenants.length} tenants is more than ${tenantsPerScopeMax}; use the system scope`,
    );
  }
  for (const tenant of scope.tenants) tenantId.parse(tenant);
  return `${begin}; SET LOCAL muster.tenants = '${scope.tenants.join(",")}'`;
}

const schemaShape = /^[a-z][a-z0-9_]{0,39}$/;

/** Schema and role names stand literally in SQL; anything but a short lower-case name is refused. */
export function checkedName(name: string, what: string): string {
  if (!schemaShape.test(name)) throw new Error(`${what} ${JSON.stringify(name)} is not like vm_ops`);
  return name;
}

export const systemRoleOf = (schema: string): string => `${checkedName(schema, "schema")}_system`;
