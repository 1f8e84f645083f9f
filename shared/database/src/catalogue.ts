import pg from "pg";
import { attemptFaults } from "./catalogue-attempts.ts";
import { grantFaults } from "./catalogue-grants.ts";
import { systemRoleOf } from "./scope.ts";

export interface CheckedSchema {
  readonly schema: string;
  /** The login role. */
  readonly role: string;
  /** Tables that belong to no tenant, beyond `inbox` and `migrations`, which every schema has. */
  readonly shared?: readonly string[];
  /** Tables with a tenant_id that the login role has no grant to: the system role's alone. */
  readonly systemOnly?: readonly string[];
}

export interface IsolationFault {
  readonly table: string;
  readonly fault: string;
}

interface TableFacts {
  readonly name: string;
  /** `relkind` of pg_class. */
  readonly kind: string;
  readonly tenant: boolean;
  readonly enabled: boolean;
  readonly forced: boolean;
  readonly policies: readonly { name: string; roles: string[]; using: string; check: string }[];
}

/** What `isolate_tenants` writes, as the server prints it. */
const tenantRule =
  /^\(tenant_id = ANY \(\( SELECT (\w+\.)?muster_tenants\(\) AS muster_tenants\)::text\[\]\)\)$/;
const sharedAlways = ["inbox", "migrations"];

/**
 * Walks the catalogue of migrated schemas and answers every way in which a table is not isolated; empty is good. What the
 * catalogue says is also tried: each role, each verb, with no tenant and with wrong ones. It leaves nothing behind, and
 * must not run beside a service: while it tries, each table is locked.
 */
export async function checkIsolation(
  adminUrl: string,
  schemas: readonly CheckedSchema[],
): Promise<IsolationFault[]> {
  const client = new pg.Client({ connectionString: adminUrl, application_name: "check isolation" });
  await client.connect();
  try {
    const faults: IsolationFault[] = [];
    for (const checked of schemas) {
      faults.push(...(await roleFaults(client, checked)), ...(await grantFaults(client, checked)));
      const tables = await tablesOf(client, checked.schema);
      if (tables.length === 0)
        faults.push({ table: checked.schema, fault: "has no tables; migrate it first" });
      for (const table of tables) {
        const say = (fault: string) => faults.push({ table: `${checked.schema}.${table.name}`, fault });
        for (const fault of declaredFaults(table, checked)) say(fault);
      }
      for (const { table, fault } of await attemptFaults(adminUrl, checked, tables)) {
        faults.push({ table: `${checked.schema}.${table}`, fault });
      }
    }
    return faults;
  } finally {
    await client.end();
  }
}

async function roleFaults(client: pg.Client, checked: CheckedSchema): Promise<IsolationFault[]> {
  const names = [checked.role, systemRoleOf(checked.schema)];
  const { rows } = await client.query<{ name: string; above: boolean; inherit: boolean; login: boolean }>(
    `SELECT rolname AS name, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb AS above,
       rolinherit AS inherit, rolcanlogin AS login FROM pg_roles WHERE rolname = ANY ($1)`,
    [names],
  );
  const faults: IsolationFault[] = [];
  for (const name of names) {
    const row = rows.find((one) => one.name === name);
    const say = (fault: string) => faults.push({ table: `role ${name}`, fault });
    if (row === undefined) say("does not exist");
    else if (row.above) say("is above row-level security");
    else if (row.inherit) say("inherits the system role; it must be taken by SET ROLE");
    else if (row.login !== (name === checked.role)) say(row.login ? "can log in" : "cannot log in");
  }
  const { rows: owned } = await client.query<{ name: string }>(
    `SELECT c.relname AS name FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
     WHERE c.relnamespace = $1::regnamespace AND r.rolname = ANY ($2)`,
    [checked.schema, names],
  );
  for (const { name } of owned)
    faults.push({ table: `${checked.schema}.${name}`, fault: "is owned by a service role" });
  return faults;
}

async function tablesOf(client: pg.Client, schema: string): Promise<TableFacts[]> {
  const { rows } = await client.query<TableFacts>(
    `SELECT c.relname AS name, c.relkind::text AS kind, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
       EXISTS (SELECT 1 FROM pg_attribute a
               WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped) AS tenant,
       coalesce((SELECT jsonb_agg(jsonb_build_object('name', p.policyname, 'roles', p.roles,
                   'using', coalesce(p.qual, ''), 'check', coalesce(p.with_check, '')))
                 FROM pg_policies p WHERE p.schemaname = $1 AND p.tablename = c.relname), '[]') AS policies
     FROM pg_class c WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('r', 'p', 'm', 'v', 'f')
     ORDER BY c.relname`,
    [schema],
  );
  return rows;
}

function declaredFaults(table: TableFacts, checked: CheckedSchema): string[] {
  if (!table.tenant) {
    return [...sharedAlways, ...(checked.shared ?? [])].includes(table.name)
      ? []
      : ["has no tenant_id and is not declared as shared; add the column, or declare it"];
  }
  const faults: string[] = [];
  if (!table.enabled) faults.push("row-level security is off; CALL isolate_tenants");
  if (!table.forced) faults.push("row-level security does not bind the owner; CALL isolate_tenants");
  const system = systemRoleOf(checked.schema);
  let isolated = checked.systemOnly?.includes(table.name) === true;
  let worked = false;
  for (const policy of table.policies) {
    const onlyFor = policy.roles.length === 1 ? policy.roles[0] : undefined;
    if (onlyFor === system) {
      worked = worked || policy.name === "system_work";
      continue;
    }
    const byTenant = [policy.using, policy.check].every((text) => tenantRule.test(text));
    if (onlyFor === checked.role && byTenant) isolated = true;
    else faults.push(`policy ${policy.name} lets ${policy.roles.join(", ")} past the tenant`);
  }
  if (!isolated) faults.push("has no policy tenant_isolation; CALL isolate_tenants");
  if (!worked) faults.push("has no policy system_work; CALL isolate_tenants");
  return faults;
}
