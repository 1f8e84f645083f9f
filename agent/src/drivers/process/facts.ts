import { readFile, statfs } from "node:fs/promises";
import * as os from "node:os";
import { bootId } from "./procfs.ts";

/** Facts about this machine; sizes in bytes, times in seconds. */
export async function machineFacts(home: string): Promise<Record<string, unknown>> {
  const [release, root, homeDisk] = await Promise.all([osRelease(), disk("/"), disk(home)]);
  const cpus = os.cpus();
  return {
    os: { name: release, kernel: os.release(), platform: os.platform(), arch: os.arch() },
    hostname: os.hostname(),
    boot_id: bootId(),
    uptime_seconds: Math.floor(os.uptime()),
    cpu: { count: cpus.length, model: cpus[0]?.model ?? "unknown", load: os.loadavg() },
    memory: { total_bytes: os.totalmem(), free_bytes: os.freemem() },
    disk: { root, home: homeDisk },
  };
}

async function osRelease(): Promise<string> {
  const text = await readFile("/etc/os-release", "utf8").catch(() => "");
  return /^PRETTY_NAME="?([^"\n]*)"?$/m.exec(text)?.[1] ?? "unknown";
}

async function disk(path: string): Promise<{ total_bytes: number; free_bytes: number } | null> {
  const stats = await statfs(path).catch(() => undefined);
  if (stats === undefined) return null;
  return { total_bytes: stats.blocks * stats.bsize, free_bytes: stats.bavail * stats.bsize };
}
