import { fileURLToPath } from "node:url";
import { runMigrateCli } from "@muster/database/migrate-cli";

process.exitCode = await runMigrateCli({
  service: "vm-ops",
  schema: "vm_ops",
  directory: fileURLToPath(new URL("../../migrations", import.meta.url)),
  env: process.env,
  argv: process.argv.slice(2),
});
