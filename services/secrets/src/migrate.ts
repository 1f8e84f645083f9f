import { fileURLToPath } from "node:url";
import { runMigrateCli } from "@muster/database/migrate-cli";

const common = { env: process.env, argv: process.argv.slice(2) };
const directoryOf = (name: string) => fileURLToPath(new URL(`../../${name}`, import.meta.url));

process.exitCode = await runMigrateCli({
  ...common,
  service: "secrets",
  schema: "secrets",
  directory: directoryOf("migrations"),
});
// Only where the vault is the embedded one.
const vaultUrl = "MUSTER_SECRETS_VAULT_DATABASE_URL";
if (process.exitCode === 0 && (process.env[vaultUrl] ?? "") !== "") {
  process.exitCode = await runMigrateCli({
    ...common,
    service: "secrets-vault",
    schema: "sealed_vault",
    urlVariable: vaultUrl,
    directory: directoryOf("vault-migrations"),
  });
}
