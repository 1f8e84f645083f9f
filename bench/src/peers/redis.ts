import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { freePort } from "@muster/test/processes";
import { eventually } from "@muster/testing/eventually";

const program = "/usr/bin/redis-server";

/** A Redis of this run alone that has on disk what it has answered, as the other systems have. */
export async function startRedis(): Promise<{ url: string; version: string; stop(): Promise<void> }> {
  if (!existsSync(program)) {
    throw new Error(
      `${program} is not there: it is of the package redis-server (apt-get install redis-server)`,
    );
  }
  const folder = await mkdtemp(join(tmpdir(), "muster-bench-redis-"));
  const port = await freePort();
  const flags = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", folder];
  const child = spawn(program, ["--port", String(port), "--bind", "127.0.0.1", ...flags], {
    stdio: "ignore",
  });
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) {
      const exited = once(child, "exit");
      child.kill("SIGTERM");
      await exited;
    }
    await rm(folder, { recursive: true, force: true });
  };
  const url = `redis://127.0.0.1:${port}`;
  const client = new Redis({ port, lazyConnect: true, retryStrategy: () => null });
  client.on("error", () => undefined);
  try {
    const info = await eventually(async () => {
      if (client.status !== "ready") await client.connect();
      return await client.info("server");
    });
    client.disconnect();
    return { url, version: /redis_version:(\S+)/.exec(info)?.[1] ?? "unknown", stop };
  } catch (error) {
    client.disconnect();
    await stop();
    throw error;
  }
}
