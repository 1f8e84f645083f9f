import { fileURLToPath } from "node:url";
import { runMigrateCli } from "@muster/database/migrate-cli";

process.exitCode = await runMigrateCli({
  service: "auth",
  schema: "auth",
  directory: fileURLToPath(new URL("../../migrations", import.meta.url)),
  env: process.env,
  argv: process.argv.slice(2),
});
