import pg from "pg";
import { sqlState } from "./faults.ts";
import type { CheckedSchema } from "./catalogue.ts";

const victim = "muster-victim";
/** What is no list of tenants with the victim in it. `undefined`: never set on this connection. */
const strangers = [
  undefined,
  ...["", "no-such-tenant", ",", "*", "%", "muster-victi", `${victim} `, ` ${victim}`, "MUSTER-VICTIM"],
  ...[`{${victim}}`, `"${victim}"`, `${victim};`, "muster-victim\n", "NULL", "' OR true --"],
];

export interface Target {
  readonly name: string;
  readonly tenant: boolean;
  readonly kind: string;
}

/**
 * Every way in which somebody reaches a row of another tenant, by trying it: each role of the server that is not the
 * administrator's, each verb. The row is there for certain: it is put there first, in a transaction that is rolled back.
 */
export async function attemptFaults(
  adminUrl: string,
  checked: CheckedSchema,
  tables: readonly Target[],
): Promise<{ table: string; fault: string }[]> {
  // A setting that was ever set on a connection is empty afterwards, and never unset again.
  const clients = [undefined, ""].map(
    () => new pg.Client({ connectionString: adminUrl, application_name: "try rows" }),
  );
  const [untouched, other] = clients as [pg.Client, pg.Client];
  await Promise.all(clients.map((client) => client.connect()));
  try {
    const faults: { table: string; fault: string }[] = [];
    const roles = await otherRoles(other, checked);
    for (const table of tables) {
      const say = (found: readonly string[]) =>
        faults.push(...found.map((fault) => ({ table: table.name, fault })));
      for (const client of table.kind === "r" ? [untouched, other] : []) {
        await client.query("BEGIN");
        try {
          if (table.tenant) await putVictim(client, checked.schema, table.name);
          const tried = client === untouched ? [undefined] : strangers.slice(1);
          if (table.tenant) say(await tenantFaults(client, checked, table.name, tried));
          if (client === other) say(await roleFaults(client, checked.schema, table.name, roles));
        } finally {
          await client.query("ROLLBACK");
        }
      }
    }
    return faults;
  } finally {
    await Promise.all(clients.map((client) => client.end()));
  }
}

async function otherRoles(client: pg.Client, { schema, role }: CheckedSchema): Promise<string[]> {
  const { rows } = await client.query<{ name: string }>(
    `SELECT rolname::text AS name FROM pg_roles
     WHERE NOT rolsuper AND rolname !~ '^pg_' AND rolname <> $1 AND rolname <> $2 || '_system' ORDER BY 1`,
    [role, schema],
  );
  return rows.map(({ name }) => name);
}

/** A row of which nothing is known but its tenant: whatever else the table asks of its rows is dropped before. */
async function putVictim(client: pg.Client, schema: string, table: string): Promise<void> {
  const target = `"${schema}"."${table}"`;
  const { rows } = await client.query<{ change: string }>(
    `SELECT format('DROP CONSTRAINT IF EXISTS %I CASCADE', conname) AS change FROM pg_constraint
       WHERE conrelid = $1::regclass AND contype IN ('c', 'p', 'u', 'x', 'f')
     UNION ALL SELECT format('ALTER COLUMN %I DROP NOT NULL', attname) FROM pg_attribute
       WHERE attrelid = $1::regclass AND attnum > 0 AND attnotnull AND attidentity = '' AND NOT attisdropped`,
    [target],
  );
  for (const { change } of rows) await client.query(`ALTER TABLE ${target} ${change}`);
  await client.query("SET LOCAL session_replication_role = replica");
  await client.query(`INSERT INTO ${target} (tenant_id) VALUES ('${victim}')`);
  await client.query("SET LOCAL session_replication_role = origin");
}

async function tenantFaults(
  client: pg.Client,
  checked: CheckedSchema,
  table: string,
  tried: readonly (string | undefined)[],
): Promise<string[]> {
  const target = `"${checked.schema}"."${table}"`;
  const verbs = {
    shows: `SELECT 1 FROM ${target} LIMIT 1`,
    changes: `UPDATE ${target} SET tenant_id = tenant_id`,
    deletes: `DELETE FROM ${target}`,
    adds: `INSERT INTO ${target} (tenant_id) VALUES ('${victim}')`,
    empties: `TRUNCATE ${target}`,
  };
  const faults: string[] = [];
  for (const tenants of tried) {
    for (const [verb, text] of Object.entries(verbs)) {
      const outcome = await attempt(client, checked.role, tenants, text);
      const said = tenants === undefined ? "unset" : JSON.stringify(tenants);
      if (outcome !== "nothing") faults.push(`${verb} rows to tenant ${said} (${outcome})`);
    }
  }
  const own = await attempt(client, checked.role, victim, verbs.shows, "its own row");
  if (own === "nothing") faults.push("hides rows from their own tenant");
  return faults;
}

/** A role of another service, or of nobody, whatever tenant it names. */
async function roleFaults(
  client: pg.Client,
  schema: string,
  table: string,
  roles: readonly string[],
): Promise<string[]> {
  const target = `"${schema}"."${table}"`;
  const verbs = [
    `SELECT 1 FROM ${target}`,
    `DELETE FROM ${target}`,
    `TRUNCATE ${target}`,
    `TABLE ${target} FOR UPDATE`,
  ];
  const faults: string[] = [];
  for (const role of roles) {
    for (const text of verbs) {
      const outcome = await attempt(client, role, victim, text, "refusal alone");
      if (outcome !== "nothing") faults.push(`does not refuse ${role}: ${text} (${outcome})`);
    }
  }
  return faults;
}

/**
 * `nothing`: refused, or no row was touched. With `refusal alone` only the first is nothing; with `its own row`, only
 * that it was refused is neither.
 */
async function attempt(
  client: pg.Client,
  role: string,
  tenants: string | undefined,
  text: string,
  asks?: "refusal alone" | "its own row",
): Promise<string> {
  await client.query("SAVEPOINT attempt");
  try {
    if (tenants !== undefined) await client.query("SELECT set_config('muster.tenants', $1, true)", [tenants]);
    await client.query(`SET LOCAL ROLE "${role}"`);
    const { rowCount } = await client.query(text);
    const touched = (rowCount ?? 1) > 0 || asks === "refusal alone" || text.startsWith("TRUNCATE");
    return touched ? "done" : "nothing";
  } catch (error) {
    const state = sqlState(error) ?? "no code";
    // Append-only tables refuse by trigger, before any row is looked at.
    // A role that was dropped meanwhile does nothing any more.
    if (state === "22023" && asks === "refusal alone") return "nothing";
    if (state === "42501" || (state === "23001" && asks === undefined))
      return asks === "its own row" ? "refused" : "nothing";
    return state;
  } finally {
    await client.query("ROLLBACK TO SAVEPOINT attempt");
  }
}
