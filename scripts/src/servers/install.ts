import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { mustRun, runCommand } from "../system/child.ts";

const policyPath = "/usr/sbin/policy-rc.d";
const policyMark = "# Made by Muster for the length of one installation.";
const installTimeoutMs = 600_000;
const lockTimeoutSeconds = 120;

/** Root on a machine of the Debian family may install packages. */
export function canInstall(): boolean {
  return process.getuid?.() === 0 && existsSync("/etc/debian_version") && existsSync("/usr/bin/apt-get");
}

/** Keeps the installation from starting servers on the standard ports; a policy of somebody else is left alone. */
async function withoutServiceStart<T>(work: () => Promise<T>): Promise<T> {
  const ours = existsSync(policyPath) && readFileSync(policyPath, "utf8").includes(policyMark);
  const free = !existsSync(policyPath);
  if (free) writeFileSync(policyPath, `#!/bin/sh\n${policyMark}\nexit 101\n`, { mode: 0o755 });
  try {
    return await work();
  } finally {
    if (free || ours) rmSync(policyPath, { force: true });
  }
}

/** Installs Debian packages; an interrupted earlier installation is completed first. */
export async function installPackages(
  packages: readonly string[],
  o: { env: NodeJS.ProcessEnv; logFile: string; signal?: AbortSignal | undefined },
): Promise<void> {
  const env = { ...o.env, DEBIAN_FRONTEND: "noninteractive" };
  const options = { env, logFile: o.logFile, timeoutMs: installTimeoutMs, signal: o.signal };
  const wait = ["-o", `DPkg::Lock::Timeout=${lockTimeoutSeconds}`];
  await withoutServiceStart(async () => {
    await runCommand("dpkg", ["--configure", "-a"], options);
    try {
      await mustRun("apt-get", [...wait, "update"], options);
      await mustRun("apt-get", [...wait, "install", "-y", "--no-install-recommends", ...packages], options);
    } catch (cause) {
      if (o.signal?.aborted === true) throw cause;
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new Error(`could not install ${packages.join(" ")}; see ${o.logFile}: ${reason}`, { cause });
    }
  });
}
