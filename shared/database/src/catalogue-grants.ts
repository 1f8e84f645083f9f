import type pg from "pg";
import { systemRoleOf } from "./scope.ts";
import type { CheckedSchema, IsolationFault } from "./catalogue.ts";

/** Every role that is not the administrator's, and everybody. By number: a role may be dropped meanwhile. */
const rolesText = `SELECT oid, rolname::text AS role FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_'
  UNION ALL SELECT 0, 'public'`;

const relationsText = `SELECT c.relname AS name, r.role, p.privilege
  FROM pg_class c CROSS JOIN (${rolesText}) r
  CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS p (privilege)
  WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('r', 'p', 'm', 'v', 'f')
    AND NOT (r.role = ANY ($2) AND p.privilege IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))
    AND (has_table_privilege(r.oid, c.oid, p.privilege) OR (p.privilege NOT IN ('DELETE', 'TRUNCATE', 'TRIGGER')
      AND has_any_column_privilege(r.oid, c.oid, p.privilege)))`;

const sequencesText = `SELECT c.relname AS name, r.role, p.privilege
  FROM pg_class c CROSS JOIN (${rolesText}) r CROSS JOIN unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) AS p (privilege)
  WHERE c.relnamespace = $1::regnamespace AND c.relkind = 'S'
    AND NOT (r.role = ANY ($2) AND p.privilege = 'USAGE') AND has_sequence_privilege(r.oid, c.oid, p.privilege)`;

const schemaText = `SELECT '(schema)' AS name, r.role, p.privilege
  FROM (${rolesText}) r CROSS JOIN unnest(ARRAY['USAGE', 'CREATE']) AS p (privilege)
  WHERE NOT (r.role = ANY ($2) AND p.privilege = 'USAGE') AND has_schema_privilege(r.oid, $1, p.privilege)`;

/** Rights of roles in a schema beyond the reading and writing of its own two, which policies bound. */
export async function grantFaults(client: pg.Client, checked: CheckedSchema): Promise<IsolationFault[]> {
  const own = [checked.role, systemRoleOf(checked.schema)];
  const faults: IsolationFault[] = [];
  for (const text of [relationsText, sequencesText, schemaText]) {
    faults.push(...(await strayGrants(client, text, checked.schema, own)));
  }
  return [
    ...faults,
    ...(await newTableFaults(client, checked.schema, own)),
    ...(await memberFaults(client, own)),
    ...(await functionFaults(client, checked.schema)),
  ];
}

async function strayGrants(
  client: pg.Client,
  text: string,
  schema: string,
  own: readonly string[],
): Promise<IsolationFault[]> {
  const { rows } = await client.query<{ name: string; role: string; privilege: string }>(text, [schema, own]);
  return rows.map(({ name, role, privilege }) => ({
    table: `${schema}.${name}`,
    fault: `gives ${privilege} to ${role}; revoke it`,
  }));
}

/** What the schema's default privileges give of a table, a sequence and a view that are made tomorrow. */
async function newTableFaults(
  client: pg.Client,
  schema: string,
  own: readonly string[],
): Promise<IsolationFault[]> {
  await client.query("BEGIN");
  try {
    await client.query(`CREATE TABLE "${schema}".made_tomorrow (id bigint GENERATED ALWAYS AS IDENTITY)`);
    const found = [
      ...(await strayGrants(client, `${relationsText} AND c.relname = 'made_tomorrow'`, schema, own)),
      ...(await strayGrants(client, `${sequencesText} AND c.relname ~ '^made_tomorrow'`, schema, own)),
    ];
    return found.map(({ table, fault }) => ({ table, fault: `by default ${fault}` }));
  } finally {
    await client.query("ROLLBACK");
  }
}

/** Only the login role takes another, and only its own system role. */
async function memberFaults(client: pg.Client, own: readonly string[]): Promise<IsolationFault[]> {
  const { rows } = await client.query<{ member: string; role: string }>(
    `SELECT m.rolname::text AS member, g.rolname::text AS role FROM pg_auth_members a
       JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid
     WHERE (m.rolname = ANY ($1) OR g.rolname = ANY ($1)) AND NOT m.rolsuper
       AND NOT (m.rolname = $2 AND g.rolname = $3)`,
    [own, ...own],
  );
  return rows.map(({ member, role }) => ({ table: `role ${member}`, fault: `can act as ${role}` }));
}

async function functionFaults(client: pg.Client, schema: string): Promise<IsolationFault[]> {
  const { rows } = await client.query<{ name: string }>(
    "SELECT oid::regprocedure::text AS name FROM pg_proc WHERE pronamespace = $1::regnamespace AND prosecdef",
    [schema],
  );
  return rows.map(({ name }) => ({ table: name, fault: "runs with its owner's rights (SECURITY DEFINER)" }));
}
