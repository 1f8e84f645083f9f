import { createHash, createHmac, pbkdf2Sync, randomBytes } from "node:crypto";
import pg from "pg";
import { sqlState } from "./faults.ts";
import { checkedName, systemRoleOf } from "./scope.ts";

const attemptsMax = 10;

/**
 * Creates the schema, the login role and the system role, and says what their tables will grant. Roles belong to the
 * whole server: two databases preparing the same role at once collide, and the loser tries again.
 */
export async function prepareRoles(
  client: pg.Client,
  o: { schema: string; role: string; password: string },
): Promise<void> {
  const schema = checkedName(o.schema, "schema");
  const login = checkedName(o.role, "role");
  const system = systemRoleOf(schema);
  const secret = pg.escapeLiteral(scramVerifier(o.password));
  const attributes = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS NOINHERIT";
  await ensureRole(client, login, `LOGIN ${attributes} PASSWORD ${secret}`);
  await ensureRole(client, system, `NOLOGIN ${attributes}`);
  await patiently(client, `GRANT "${system}" TO "${login}"`);
  await patiently(client, `CREATE SCHEMA IF NOT EXISTS "${schema}"`);
  await patiently(
    client,
    `REVOKE ALL ON SCHEMA "${schema}" FROM PUBLIC;
     GRANT USAGE ON SCHEMA "${schema}" TO "${login}", "${system}";
     ALTER DEFAULT PRIVILEGES IN SCHEMA "${schema}"
       GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO "${login}", "${system}";
     ALTER DEFAULT PRIVILEGES IN SCHEMA "${schema}" GRANT USAGE ON SEQUENCES TO "${login}", "${system}"`,
  );
}

async function ensureRole(client: pg.Client, name: string, attributes: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const { rowCount } = await client.query("SELECT 1 FROM pg_roles WHERE rolname = $1", [name]);
    try {
      await client.query(`${rowCount === 0 ? "CREATE" : "ALTER"} ROLE "${name}" ${attributes}`);
      return;
    } catch (error) {
      await waitOut(error, attempt);
    }
  }
}

async function patiently(client: pg.Client, text: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await client.query(text);
      return;
    } catch (error) {
      await waitOut(error, attempt);
    }
  }
}

/** Rethrows unless someone else was changing the same catalogue rows: XX000 reads "tuple concurrently updated". */
async function waitOut(error: unknown, attempt: number): Promise<void> {
  const state = sqlState(error) ?? "";
  if (!["XX000", "42710", "23505", "42P06"].includes(state) || attempt === attemptsMax) throw error;
  await new Promise((resolve) => setTimeout(resolve, Math.random() * 50 * attempt));
}

/** What PostgreSQL keeps of a password (RFC 5803), made here so that the password stands in no server log. */
export function scramVerifier(password: string, salt: Buffer = randomBytes(16), iterations = 4_096): string {
  const salted = pbkdf2Sync(password.normalize("NFKC"), salt, iterations, 32, "sha256");
  const hmac = (key: Buffer, text: string) => createHmac("sha256", key).update(text).digest();
  const storedKey = createHash("sha256").update(hmac(salted, "Client Key")).digest("base64");
  const serverKey = hmac(salted, "Server Key").toString("base64");
  return `SCRAM-SHA-256$${iterations}:${salt.toString("base64")}$${storedKey}:${serverKey}`;
}
