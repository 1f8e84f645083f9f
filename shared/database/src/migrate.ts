import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Logger } from "@muster/telemetry/logger";
import pg from "pg";
import { Umzug, type UmzugStorage } from "umzug";
import { prepareRoles } from "./migrate-roles.ts";
import { checkedName, systemRoleOf } from "./scope.ts";

export interface MigrateOptions {
  /** A role that may create schemas and roles. */
  readonly adminUrl: string;
  readonly schema: string;
  /** The service's login role, created if need be and given this password. */
  readonly role: string;
  readonly password: string;
  /** Holds `0001_name.sql`, `0002_…`; a file that was applied never changes again. */
  readonly directory: string;
  readonly logger: Logger;
}

/** A migration that cannot be applied, or one that was changed after it was. The message names the file and the remedy. */
export class MigrationFault extends Error {
  override readonly name = "MigrationFault";
}

interface MigrationFile {
  readonly name: string;
  readonly text: string;
  readonly sha256: string;
}

const commonDirectory = fileURLToPath(new URL("../../migrations/", import.meta.url));
const fileShape = /^\d{4}_[a-z0-9_]+\.sql$/;

/**
 * Brings a schema up to its files: the tables that every service has (outbox, inbox), then the service's own. Any
 * number may run at once; they take turns. Each file is one transaction, and stands or falls with its record.
 */
export async function migrate(o: MigrateOptions): Promise<{ applied: string[] }> {
  const schema = checkedName(o.schema, "schema");
  const files = await migrationFiles(o.directory);
  const client = new pg.Client({
    connectionString: o.adminUrl,
    application_name: `migrate ${schema}`,
    connectionTimeoutMillis: 10_000,
    keepAlive: true,
  });
  client.on("error", (error) => o.logger.error({ err: error }, "the migrating connection was lost"));
  await client.connect();
  try {
    // Held until the connection ends, however it ends.
    await client.query("SELECT pg_advisory_lock(hashtext('muster.migrate'), hashtext($1))", [schema]);
    await prepareRoles(client, o);
    await client.query(`SET search_path TO "${schema}"`);
    await client.query(
      "SELECT set_config('muster.login_role', $1, false), set_config('muster.system_role', $2, false)",
      [o.role, systemRoleOf(schema)],
    );
    await ensureRecord(client, schema, o.role);
    const applied = await applyAll(client, files);
    if (applied.length > 0) o.logger.info({ schema, applied }, "migrations applied");
    return { applied };
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** Every file that `migrate` would apply for this directory, in order. */
export async function migrationFiles(directory: string): Promise<MigrationFile[]> {
  const common = await readMigrations(commonDirectory, "common/");
  return [...common, ...(await readMigrations(directory, ""))];
}

async function readMigrations(directory: string, prefix: string): Promise<MigrationFile[]> {
  const names = (await readdir(directory)).filter((name) => name.endsWith(".sql")).sort();
  const numbers = new Set<string>();
  const files: MigrationFile[] = [];
  for (const name of names) {
    if (!fileShape.test(name))
      throw new MigrationFault(`${join(directory, name)}: name it like 0001_add_things.sql`);
    const number = name.slice(0, 4);
    if (numbers.has(number))
      throw new MigrationFault(`${join(directory, name)}: the number ${number} is taken`);
    numbers.add(number);
    const text = await readFile(join(directory, name), "utf8");
    files.push({ name: prefix + name, text, sha256: createHash("sha256").update(text).digest("hex") });
  }
  return files;
}

async function ensureRecord(client: pg.Client, schema: string, role: string): Promise<void> {
  await client.query(
    `CREATE TABLE IF NOT EXISTS migrations (
       name text PRIMARY KEY,
       sha256 text NOT NULL,
       applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
     );
     REVOKE ALL ON migrations FROM "${role}", "${systemRoleOf(schema)}"`,
  );
}

async function applyAll(client: pg.Client, files: readonly MigrationFile[]): Promise<string[]> {
  const { rows } = await client.query<{ name: string; sha256: string }>(
    "SELECT name, sha256 FROM migrations",
  );
  refuseChanged(files, rows);
  const storage: UmzugStorage<pg.Client> = {
    executed: async ({ context }) => {
      const result = await context.query<{ name: string }>(
        "SELECT name FROM migrations ORDER BY applied_at, name",
      );
      return result.rows.map((row) => row.name);
    },
    // The record is written by the migration's own transaction.
    logMigration: () => Promise.resolve(),
    unlogMigration: ({ name }) =>
      Promise.reject(new MigrationFault(`${name}: migrations go forward only; write a new one`)),
  };
  const umzug = new Umzug<pg.Client>({
    context: client,
    storage,
    logger: undefined,
    migrations: files.map((file) => ({ name: file.name, up: ({ context }) => applyOne(context, file) })),
  });
  const applied = await umzug.up();
  return applied.map((migration) => migration.name);
}

function refuseChanged(
  files: readonly MigrationFile[],
  applied: readonly { name: string; sha256: string }[],
): void {
  const recorded = new Map(applied.map((row) => [row.name, row.sha256]));
  let missing: string | undefined;
  for (const file of files) {
    const before = recorded.get(file.name);
    if (before === undefined) {
      if (!file.name.startsWith("common/")) missing ??= file.name;
      continue;
    }
    if (before !== file.sha256) {
      throw new MigrationFault(
        `${file.name} was changed after it was applied; restore it and add a new file`,
      );
    }
    if (missing !== undefined) {
      throw new MigrationFault(
        `${missing} comes before ${file.name}, which is applied; give it a higher number`,
      );
    }
  }
}

async function applyOne(client: pg.Client, file: MigrationFile): Promise<void> {
  await client.query("BEGIN");
  try {
    await client.query(file.text);
    // A file may have changed its role to touch rows.
    await client.query("RESET ROLE");
    await client.query("INSERT INTO migrations (name, sha256) VALUES ($1, $2)", [file.name, file.sha256]);
    await client.query("COMMIT");
  } catch (error) {
    await client.query("ROLLBACK").catch(() => undefined);
    const text = error instanceof Error ? error.message : String(error);
    throw new MigrationFault(`${file.name} failed and left nothing behind: ${text}`, { cause: error });
  }
}
