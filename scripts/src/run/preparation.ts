import { hostname } from "node:os";
import { z } from "zod";
import { uuid, uuidv7 } from "@muster/contracts/ids";
import type { Servers } from "../servers/servers.ts";
import type { Secrets } from "../servers/secrets.ts";
import { mustRun } from "../system/child.ts";
import { readJson, writeJson } from "../system/files.ts";
import { logFileOf, programOf, schemas, storingServices, vaultSchema } from "./folder.ts";
import type { RunFolder, StoringService } from "./folder.ts";

export const ownerEmail = "owner@muster.local";
export const tenantId = "default";

export interface PreparationOptions {
  readonly folder: RunFolder;
  readonly servers: Servers;
  readonly secrets: Secrets;
  /** What a service gets from the caller. */
  readonly env: NodeJS.ProcessEnv;
  readonly signal: AbortSignal;
}

const programTimeoutMs = 120_000;

/** The database as one service's own role sees it. */
export function roleUrl(adminUrl: string, service: StoringService, secrets: Secrets): string {
  return urlAs(adminUrl, schemas[service], secrets);
}

/** The database as the sealed vault's role sees it. */
export function vaultUrl(adminUrl: string, secrets: Secrets): string {
  return urlAs(adminUrl, vaultSchema, secrets);
}

function urlAs(adminUrl: string, role: string, secrets: Secrets): string {
  const url = new URL(adminUrl);
  url.username = role;
  url.password = secrets.get(`role.${role}`);
  return url.toString();
}

async function migrate(service: StoringService, o: PreparationOptions): Promise<void> {
  await mustRun(process.execPath, [programOf(`services/${service}`, "migrate")], {
    env: {
      ...o.env,
      MUSTER_ADMIN_DATABASE_URL: o.servers.databaseUrl,
      MUSTER_DATABASE_URL: roleUrl(o.servers.databaseUrl, service, o.secrets),
      ...(service === "secrets"
        ? { MUSTER_SECRETS_VAULT_DATABASE_URL: vaultUrl(o.servers.databaseUrl, o.secrets) }
        : {}),
    },
    logFile: logFileOf(o.folder, `${service}-migrate`),
    timeoutMs: programTimeoutMs,
    signal: o.signal,
  });
}

/** Brings the schema of each service up to date, with its role. */
export async function migrateAll(o: PreparationOptions): Promise<void> {
  await Promise.all(storingServices.map((service) => migrate(service, o)));
}

const bootstrapSchema = z.object({
  tenant_id: z.string(),
  owner: z.object({ email: z.string(), api_key: z.string().nullish() }),
});
const ownerSchema = z.object({ tenant_id: z.string(), email: z.string(), api_key: z.string() });
export type Owner = z.output<typeof ownerSchema>;

async function bootstrap(
  o: PreparationOptions,
  extra: readonly string[],
): Promise<z.output<typeof bootstrapSchema>> {
  const args = ["--email", ownerEmail, "--tenant", tenantId, ...extra];
  const { stdout } = await mustRun(process.execPath, [programOf("services/auth", "bootstrap"), ...args], {
    env: {
      ...o.env,
      MUSTER_AMQP_URL: o.servers.amqpUrl,
      MUSTER_DATABASE_URL: roleUrl(o.servers.databaseUrl, "auth", o.secrets),
    },
    timeoutMs: programTimeoutMs,
    signal: o.signal,
  });
  const last = stdout.trim().split("\n").at(-1) ?? "";
  return bootstrapSchema.parse(JSON.parse(last));
}

/** The first tenant with its owner. The API key is shown once, so it is kept; `renew` makes another one. */
export async function ensureOwner(o: PreparationOptions, renew = false): Promise<Owner> {
  const made = await bootstrap(o, renew ? ["--new-key"] : []);
  const kept = readJson(o.folder.owner, ownerSchema);
  const known =
    kept?.tenant_id === made.tenant_id && kept.email === made.owner.email ? kept.api_key : undefined;
  const key = made.owner.api_key ?? known;
  if (key === undefined)
    return renew ? Promise.reject(new Error("auth made no API key")) : ensureOwner(o, true);
  const owner = { tenant_id: made.tenant_id, email: made.owner.email, api_key: key };
  writeJson(o.folder.owner, owner);
  return owner;
}

const machineSchema = z.object({ vm_uuid: uuid, agent_id: uuid, name: z.string() });
export type Machine = z.output<typeof machineSchema>;

/** This machine as a VM, and its agent: the same ids each time. */
export function thisMachine(folder: RunFolder): Machine {
  const kept = readJson(folder.machine, machineSchema);
  if (kept !== undefined) return kept;
  const machine = { vm_uuid: uuidv7(), agent_id: uuidv7(), name: hostname() || "localhost" };
  writeJson(folder.machine, machine);
  return machine;
}
