import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { eventually } from "@muster/testing/eventually";
import type { Fault, Injected } from "./fault.ts";
import { agentNames, processNames, type World } from "./world.ts";

interface Supervisor {
  readonly pid: number;
  readonly folder: string;
}

/** Supervisors of an agent's running commands, the oldest first. */
function supervisorsOf(world: World, agent: string): Supervisor[] {
  const runs = join(world.homeOf(agent), "runs");
  return readdirSync("/proc")
    .filter((name) => /^[0-9]+$/.test(name))
    .map((pid) => ({ pid: Number(pid), args: argumentsOf(pid) }))
    .filter(({ args }) => args.at(-1)?.startsWith(runs) === true && args.some(isSupervisor))
    .map(({ pid, args }) => ({ pid, folder: args.at(-1) ?? "" }))
    .toSorted((a, b) => a.folder.localeCompare(b.folder));
}

const isSupervisor = (argument: string): boolean => argument.endsWith("/supervisor.js");

function argumentsOf(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").filter(Boolean);
  } catch {
    return [];
  }
}

/** One that runs now or soon; undefined when the agent starts nothing meanwhile. */
async function findSupervisor(
  world: World,
  agent: string,
  withinMs: number,
): Promise<Supervisor | undefined> {
  return await eventually(() => supervisorsOf(world, agent)[0], withinMs).catch(() => undefined);
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has just ended.
  }
}

const commandOf = (folder: string): string => folder.slice(folder.lastIndexOf("/") + 1);
const nothing = (detail: string): Injected => ({ heal: () => Promise.resolve(), detail });

export const processFaults: readonly Fault[] = [
  {
    name: "process killed",
    targets: processNames,
    lastsMs: [200, 9_000],
    async inject({ process, keeper }, target) {
      keeper.hold(target);
      await process(target).stop("SIGKILL");
      return { heal: async () => keeper.release(target) };
    },
  },
  {
    name: "process stopped",
    targets: processNames,
    lastsMs: [2_000, 20_000],
    async inject({ process }, target) {
      const stopped = process(target);
      stopped.signal("SIGSTOP");
      return { heal: async () => stopped.signal("SIGCONT") };
    },
  },
  {
    name: "supervisor killed",
    targets: agentNames,
    lastsMs: [4_000, 4_000],
    async inject(world, target, _roll, durationMs) {
      const found = await findSupervisor(world, target, durationMs);
      if (found === undefined) return nothing("nothing ran");
      signal(found.pid, "SIGKILL");
      return nothing(commandOf(found.folder));
    },
  },
  {
    name: "supervisor stopped",
    targets: agentNames,
    lastsMs: [3_000, 12_000],
    async inject(world, target) {
      const found = await findSupervisor(world, target, 3_000);
      if (found === undefined) return nothing("nothing ran");
      signal(found.pid, "SIGSTOP");
      return { heal: async () => signal(found.pid, "SIGCONT"), detail: commandOf(found.folder) };
    },
  },
];
