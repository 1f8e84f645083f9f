import { canInstall, installPackages } from "../servers/install.ts";
import { join } from "node:path";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { runCommand } from "../system/child.ts";

/** Python's AMQP client: one test speaks to the mesh in a language that is not ours. Without it that test is skipped. */
export async function ensureThirdPartyClient(
  selected: readonly string[],
  env: NodeJS.ProcessEnv,
  log: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  if (!selected.some((file) => file.includes("third-party"))) return;
  const options = { env, timeoutMs: 30_000, signal };
  const present = await runCommand("/bin/sh", ["-c", "python3 -c 'import pika'"], options);
  if (present.code === 0) return;
  if (!canInstall()) {
    log("python3-pika is not installed: the test of a third-party client is skipped");
    return;
  }
  const folder = mkdtempSync(join(tmpdir(), "muster-install-"));
  try {
    log("installing python3-pika with apt-get, for the test of a third-party client");
    await installPackages(["python3", "python3-pika"], { env, logFile: join(folder, "install.log"), signal });
  } catch (error) {
    signal.throwIfAborted();
    log(error instanceof Error ? error.message : String(error));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
