import { existsSync, readdirSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { placeOf } from "../servers/accounts.ts";
import { rabbitPaths } from "../servers/rabbit-files.ts";
import { markerOf } from "../system/files.ts";
import {
  allProcesses,
  commandLineOf,
  markerVariable,
  postgresProcessesIn,
  processesWith,
} from "../system/process-table.ts";
import type { ProcessEntry } from "../system/process-table.ts";
import { stopProcesses } from "../system/wait.ts";
import type { RunFolder } from "./folder.ts";

/** The agent gives every program that it runs this variable, and each run a folder of the same name. */
const handleVariable = "MUSTER_COMMAND_HANDLE";
const graceMs = 10_000;
const serverGraceMs = 20_000;

function unique(entries: readonly ProcessEntry[]): ProcessEntry[] {
  return [...new Map(entries.map((entry) => [entry.pid, entry])).values()];
}

/** Programs of commands, with the small processes that watch over them: they outlive their agent on purpose. */
export function workOf(folder: RunFolder): ProcessEntry[] {
  const runs = join(folder.agentHome, "runs");
  const handles = existsSync(runs) ? readdirSync(runs) : [];
  const supervisors = allProcesses().filter(({ pid }) => commandLineOf(pid).includes(`${runs}/`));
  return unique([...supervisors, ...handles.flatMap((handle) => processesWith(handleVariable, handle))]);
}

function rabbitOf(root: string): ProcessEntry[] {
  return processesWith("HOME", rabbitPaths(root).home);
}

function postgresOf(root: string): ProcessEntry[] {
  return postgresProcessesIn(join(placeOf(root) ?? root, "postgres", "data"));
}

/** Without work: programs of commands may run on, for the agent's next start to find them. */
export interface LeftoverScope {
  readonly work: boolean;
}

/** Every process of this system that still lives, except this one and those that started it. */
export function leftoversOf(folder: RunFolder, scope: LeftoverScope = { work: true }): ProcessEntry[] {
  if (!existsSync(folder.root)) return [];
  const root = realpathSync(folder.root);
  const marked = processesWith(markerVariable, markerOf(root));
  return unique([...marked, ...(scope.work ? workOf(folder) : []), ...postgresOf(root)]);
}

/** Ends what an earlier, killed run left: programs and services first, then the servers, as gently as they allow. */
export async function stopLeftovers(folder: RunFolder, scope?: LeftoverScope): Promise<number> {
  const found = leftoversOf(folder, scope);
  if (found.length === 0) return 0;
  const root = realpathSync(folder.root);
  const rabbit = rabbitOf(root);
  const postgres = postgresOf(root);
  const servers = new Set([...rabbit, ...postgres].map(({ pid }) => pid));
  await stopProcesses(
    found.filter(({ pid }) => !servers.has(pid)),
    "SIGTERM",
    graceMs,
  );
  const machines = rabbit.filter(({ name }) => name.startsWith("beam"));
  await Promise.all([
    stopProcesses(machines, "SIGTERM", serverGraceMs),
    stopProcesses(postgres, "SIGINT", serverGraceMs),
  ]);
  await stopProcesses(leftoversOf(folder, scope), "SIGKILL", 5_000);
  return found.length;
}
