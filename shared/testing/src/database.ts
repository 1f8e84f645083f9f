import { createHash, randomBytes } from "node:crypto";
import { migrate, migrationFiles } from "@muster/database/migrate";
import { openAdmin, type Admin } from "@muster/database/admin";
import { openLogger } from "@muster/telemetry/logger";

export interface TestSchema {
  readonly schema: string;
  /** Where its migrations are; a path of the file system. */
  readonly directory: string;
}

export interface TestDatabase {
  readonly name: string;
  readonly adminUrl: string;
  /** The URL of the schema's login role. */
  urlFor(schema: string): string;
  /** Drops the database, whoever is still connected. */
  destroy(): Promise<void>;
}

/** Roles belong to the whole server, so every test file that has a schema has this password for it. */
const rolePassword = (schema: string): string => `test-only-${schema}`;

/**
 * A database of its own for a test file: a copy of a template that is migrated once for the same files. On the server
 * of an administrator's URL, by default MUSTER_TEST_DATABASE_URL.
 */
export async function setupDatabase(o: {
  migrations: readonly TestSchema[];
  serverUrl?: string | undefined;
}): Promise<TestDatabase> {
  const serverUrl = o.serverUrl ?? process.env["MUSTER_TEST_DATABASE_URL"];
  if (serverUrl === undefined) {
    throw new Error("MUSTER_TEST_DATABASE_URL is not set; run the tests by ./scripts/test");
  }
  const admin = await openAdmin(serverUrl);
  const name = `muster_test_${randomBytes(6).toString("hex")}`;
  try {
    const template = await ensureTemplate(admin, serverUrl, o.migrations);
    await admin.run(`CREATE DATABASE "${name}" TEMPLATE "${template}"`);
  } finally {
    await admin.close();
  }
  let destroyed: Promise<void> | undefined;
  async function destroy(url: string): Promise<void> {
    // A connection of its own: the server may have been restarted meanwhile.
    const last = await openAdmin(url);
    await last.run(`DROP DATABASE IF EXISTS "${name}" WITH (FORCE)`).finally(() => last.close());
  }
  return {
    name,
    adminUrl: urlOf(serverUrl, name),
    urlFor(schema) {
      if (!o.migrations.some((one) => one.schema === schema))
        throw new Error(`schema ${schema} was not migrated`);
      return urlOf(serverUrl, name, schema);
    },
    destroy: () => (destroyed ??= destroy(serverUrl)),
  };
}

/** The name says what is in it: a template that exists under it is complete, since it gets the name last. */
async function ensureTemplate(
  admin: Admin,
  serverUrl: string,
  schemas: readonly TestSchema[],
): Promise<string> {
  const hash = createHash("sha256");
  for (const { schema, directory } of schemas) {
    hash.update(`${schema}\0`);
    for (const file of await migrationFiles(directory)) hash.update(`${file.name}\0${file.sha256}\0`);
  }
  const template = `muster_template_${hash.digest("hex").slice(0, 16)}`;
  await admin.exclusively("muster.test.template", async () => {
    if (await admin.hasDatabase(template)) return;
    const building = `${template}_building`;
    await admin.run(`DROP DATABASE IF EXISTS "${building}" WITH (FORCE)`);
    await admin.run(`CREATE DATABASE "${building}"`);
    for (const { schema, directory } of schemas) {
      await migrate({
        adminUrl: urlOf(serverUrl, building),
        schema,
        role: schema,
        password: rolePassword(schema),
        directory,
        logger: openLogger({ service: "testing", level: "silent" }),
      });
    }
    await admin.run(`ALTER DATABASE "${building}" RENAME TO "${template}"`);
  });
  return template;
}

function urlOf(serverUrl: string, database: string, schema?: string): string {
  const url = new URL(serverUrl);
  url.pathname = `/${database}`;
  if (schema !== undefined) {
    url.username = schema;
    url.password = rolePassword(schema);
  }
  return url.href;
}
