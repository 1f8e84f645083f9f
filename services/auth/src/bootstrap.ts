import { parseArgs } from "node:util";
import { tenantId } from "@muster/contracts/ids";
import { openDatabase } from "@muster/database/database";
import { databaseUrl } from "@muster/service/known-settings";
import { readSettings } from "@muster/service/settings";
import { exitCodes } from "@muster/service/start";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { z } from "zod";
import { ensureFirstOwner } from "./tenants/first-owner.ts";

const usage = `usage: bootstrap --email EMAIL --tenant TENANT [--new-key]
Makes the tenant, its owner and the owner's API key where they are missing, and prints one line of JSON.
The key is shown when it is made, and never again; --new-key makes another.
MUSTER_DATABASE_URL names the database, as the role of auth.
`;

const given = z.object({
  tenant: tenantId,
  email: z.email().max(254),
  "new-key": z.boolean().default(false),
});

function readArguments(argv: readonly string[]): z.output<typeof given> {
  const { values } = parseArgs({
    args: [...argv],
    options: { email: { type: "string" }, tenant: { type: "string" }, "new-key": { type: "boolean" } },
  });
  return given.parse(values);
}

async function run(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<void> {
  const { tenant, email, "new-key": newKey } = readArguments(argv);
  const { MUSTER_DATABASE_URL: url } = readSettings({ MUSTER_DATABASE_URL: databaseUrl }, env);
  const database = await openDatabase({
    url,
    schema: "auth",
    applicationName: "muster-auth-bootstrap",
    poolMax: 1,
    statementTimeoutMs: 10_000,
    logger: openLogger({ service: "auth-bootstrap", level: "warn", destination: process.stderr }),
    metrics: createMetrics({ service: "auth-bootstrap" }),
  });
  try {
    const made = await ensureFirstOwner(database, { tenantId: tenant, email, newKey });
    process.stdout.write(`${JSON.stringify(made)}\n`);
  } finally {
    await database.close();
  }
}

try {
  await run(process.argv.slice(2), process.env);
} catch (error) {
  const wrongUse = error instanceof z.ZodError || isArgumentError(error);
  const message =
    error instanceof z.ZodError
      ? error.issues.map((issue) => `--${issue.path.join(".")}: ${issue.message}`).join("\n")
      : error instanceof Error
        ? error.message
        : String(error);
  process.stderr.write(`bootstrap: ${message}\n${wrongUse ? usage : ""}`);
  process.exitCode = exitCodes.failure;
}

function isArgumentError(error: unknown): boolean {
  return error instanceof TypeError && "code" in error && String(error.code).startsWith("ERR_PARSE_ARGS");
}
