import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { removeContainers } from "../servers/containers.ts";
import { removeServerData } from "../servers/servers.ts";
import { markerOf, readJson } from "../system/files.ts";
import { lockHolder } from "../system/lock.ts";
import { portHolder } from "../system/ports.ts";
import { commandLineOf, signal } from "../system/process-table.ts";
import { stopProcesses, waitGone } from "../system/wait.ts";
import type { RunFolder } from "./folder.ts";
import { leftoversOf, stopLeftovers } from "./leftovers.ts";

const supervisorGraceMs = 90_000;

const portsSchema = z.record(z.string(), z.number());
const rabbitSchema = z.object({ ports: portsSchema });
const postgresSchema = z.object({ port: z.number() });

/** Every port that this system has ever held. */
function portsOf(folder: RunFolder): number[] {
  const services = Object.values(readJson(folder.ports, portsSchema) ?? {});
  const rabbit = Object.values(
    readJson(join(folder.root, "rabbitmq", "state.json"), rabbitSchema)?.ports ?? {},
  );
  const postgres = readJson(join(folder.root, "postgres.json"), postgresSchema)?.port;
  return [...services, ...rabbit, ...(postgres === undefined ? [] : [postgres])];
}

/** Stops the system of this folder, running, half started or orphaned. Answers whether there was anything to stop. */
export async function stopSystem(folder: RunFolder, env: NodeJS.ProcessEnv): Promise<boolean> {
  if (!existsSync(folder.root)) return false;
  const supervisor = lockHolder(folder.lock);
  if (supervisor !== undefined) {
    signal(supervisor, "SIGTERM");
    if (!(await waitGone([supervisor], supervisorGraceMs)))
      await stopProcesses([supervisor], "SIGKILL", 5_000);
  }
  const left = await stopLeftovers(folder);
  await removeContainers({ folder: folder.root, marker: markerOf(folder.root), env, volumes: false });
  const remaining = leftoversOf(folder);
  if (remaining.length > 0) {
    const list = remaining.map(({ pid }) => `pid ${pid} (${commandLineOf(pid).slice(0, 80)})`).join(", ");
    throw new Error(`these processes could not be stopped: ${list}; try again as the user who started them`);
  }
  rmSync(folder.runFile, { force: true });
  rmSync(folder.lock, { force: true });
  rmSync(join(folder.root, "servers.lock"), { force: true });
  for (const port of portsOf(folder)) {
    const holder = portHolder(port);
    if (holder === undefined) continue;
    process.stderr.write(
      `note: port ${port} is now held by pid ${holder.pid} (${holder.name}), which is not ours\n`,
    );
  }
  return supervisor !== undefined || left > 0;
}

/** Stops it and removes all of its data. */
export async function resetSystem(folder: RunFolder, env: NodeJS.ProcessEnv): Promise<void> {
  if (!existsSync(folder.root)) return;
  await stopSystem(folder, env);
  await removeContainers({ folder: folder.root, marker: markerOf(folder.root), env, volumes: true });
  removeServerData(folder.root);
}
