import { openLogger } from "@muster/telemetry/logger";
import { migrate } from "./migrate.ts";

const exitUsage = 64;
const exitConfig = 78;

/**
 * The body of a service's `src/migrate.ts`. Answers the exit code: 0 done, 1 failed, 64 wrong arguments, 78 wrong
 * settings. The service's own URL says which login role to create, and its password.
 */
export async function runMigrateCli(o: {
  service: string;
  schema: string;
  directory: string;
  /** Where the service's own URL stands, if not in MUSTER_DATABASE_URL. */
  urlVariable?: string;
  env: Readonly<Record<string, string | undefined>>;
  argv: readonly string[];
  out?: NodeJS.WritableStream;
  err?: NodeJS.WritableStream;
}): Promise<number> {
  const { out = process.stdout, err = process.stderr, urlVariable = "MUSTER_DATABASE_URL" } = o;
  const help = `Brings the schema ${o.schema} of ${o.service} up to date. Safe to run at any time, by any number at once.

  MUSTER_ADMIN_DATABASE_URL  a role that may create schemas and roles
  ${urlVariable.padEnd(25)}  the service's own; its role is created and given this password
`;
  if (o.argv.includes("--help")) {
    out.write(help);
    return 0;
  }
  if (o.argv.length > 0) {
    err.write(`unknown argument ${o.argv[0]}\n${help}`);
    return exitUsage;
  }
  const adminUrl = databaseUrl(o.env["MUSTER_ADMIN_DATABASE_URL"]);
  const serviceUrl = databaseUrl(o.env[urlVariable]);
  if (adminUrl === undefined || serviceUrl === undefined || serviceUrl.password === "") {
    err.write(`both settings must be like postgres://role:password@host:5432/database\n${help}`);
    return exitConfig;
  }
  if (adminUrl.host !== serviceUrl.host || adminUrl.pathname !== serviceUrl.pathname) {
    err.write("both settings must name the same server and database\n");
    return exitConfig;
  }
  const logger = openLogger({ service: `${o.service}-migrate`, level: "info" });
  try {
    const { applied } = await migrate({
      adminUrl: adminUrl.href,
      schema: o.schema,
      role: decodeURIComponent(serviceUrl.username),
      password: decodeURIComponent(serviceUrl.password),
      directory: o.directory,
      logger,
    });
    out.write(applied.length === 0 ? "up to date\n" : `applied ${applied.join(", ")}\n`);
    return 0;
  } catch (error) {
    logger.error({ err: error }, "migration failed");
    return 1;
  }
}

function databaseUrl(text: string | undefined): URL | undefined {
  if (text === undefined || !URL.canParse(text)) return undefined;
  const url = new URL(text);
  return (url.protocol === "postgres:" || url.protocol === "postgresql:") && url.username !== ""
    ? url
    : undefined;
}
