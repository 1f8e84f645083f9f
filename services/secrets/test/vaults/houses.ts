import { readFile } from "node:fs/promises";
import { openLogger } from "@muster/telemetry/logger";
import { appRole, givenToken } from "../../src/vaults/hashicorp/credentials.ts";
import type { HashicorpOptions } from "../../src/vaults/hashicorp/vault.ts";
import { openHashicorpVault } from "../../src/vaults/hashicorp/vault.ts";
import { openSupabaseVault } from "../../src/vaults/supabase/vault.ts";
import type { VaultHouse } from "./conformance.ts";
import { openPostgrest } from "./postgrest-stand-in.ts";
import { approle, openVaultStandIn } from "./vault-stand-in.ts";
import type { VaultStandIn } from "./vault-stand-in.ts";

export const silent = openLogger({ service: "secrets", level: "silent" });

export function hashicorpAt(address: string, more: Partial<HashicorpOptions> = {}) {
  const credentials = appRole({
    mount: "approle",
    roleId: approle.roleId,
    secretId: () => Promise.resolve(approle.secretId),
  });
  const paths = { mount: "secret", prefix: "muster" };
  return openHashicorpVault({ address, ...paths, credentials, timeoutMs: 5_000, logger: silent, ...more });
}

/** A client of the stand-in, and the stand-in to be broken. */
export async function setupHashicorp(
  more: Partial<HashicorpOptions> = {},
  prepare: (standIn: VaultStandIn) => void = () => undefined,
) {
  const server = await openVaultStandIn(more.namespace === undefined ? {} : { namespace: more.namespace });
  prepare(server);
  const vault = hashicorpAt(server.url, more);
  return {
    server,
    vault,
    async close() {
      await vault.close();
      await server.close();
    },
  };
}

export async function setupSupabase() {
  const server = await openPostgrest();
  const rpc = { rpcName: "muster_vault", prefix: "muster" };
  const vault = openSupabaseVault({ url: server.url, serviceRoleKey: server.serviceRoleKey, ...rpc });
  return {
    server,
    vault,
    async close() {
      await vault.close();
      await server.close();
    },
  };
}

/**
 * Vault or OpenBao: a real one at MUSTER_TEST_VAULT_ADDR with MUSTER_TEST_VAULT_TOKEN (and _MOUNT, _NAMESPACE, _CA_FILE), as
 * `vault server -dev` is one; by default the stand-in.
 */
export async function hashicorpHouse(): Promise<VaultHouse> {
  const { env } = process;
  const address = env["MUSTER_TEST_VAULT_ADDR"];
  if (address === undefined) {
    const server = await openVaultStandIn();
    return { open: async () => hashicorpAt(server.url), close: () => server.close() };
  }
  const caFile = env["MUSTER_TEST_VAULT_CA_FILE"];
  const ca = caFile === undefined ? undefined : await readFile(caFile, "utf8");
  const token = env["MUSTER_TEST_VAULT_TOKEN"] ?? "";
  const more = {
    ca,
    namespace: env["MUSTER_TEST_VAULT_NAMESPACE"],
    mount: env["MUSTER_TEST_VAULT_MOUNT"] ?? "secret",
    prefix: "muster-test",
    credentials: givenToken(() => Promise.resolve(token)),
  };
  return { open: async () => hashicorpAt(address, more), close: () => Promise.resolve() };
}

/**
 * Supabase Vault: a real project at MUSTER_TEST_SUPABASE_URL with MUSTER_TEST_SUPABASE_SERVICE_ROLE_KEY, where the function of
 * infra/supabase/muster_vault.sql is; by default that very function in PostgreSQL, behind a stand-in of PostgREST.
 */
export async function supabaseHouse(): Promise<VaultHouse> {
  const url = process.env["MUSTER_TEST_SUPABASE_URL"];
  if (url !== undefined) {
    const serviceRoleKey = process.env["MUSTER_TEST_SUPABASE_SERVICE_ROLE_KEY"] ?? "";
    const options = { url, serviceRoleKey, rpcName: "muster_vault", prefix: "muster-test" };
    return { open: async () => openSupabaseVault(options), close: () => Promise.resolve() };
  }
  const server = await openPostgrest();
  const options = { serviceRoleKey: server.serviceRoleKey, rpcName: "muster_vault", prefix: "muster" };
  return {
    open: async () => openSupabaseVault({ url: server.url, ...options }),
    close: () => server.close(),
  };
}
