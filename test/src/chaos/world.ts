import { execFileSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { removeServerData, startServers, type Servers } from "@muster/scripts/servers/servers";
import { openFaultyLink, type FaultyLink } from "@muster/testing/faults";
import { openSystem, serviceNames, type ServiceName, type System } from "../system.ts";
import type { ManagedProcess } from "../processes.ts";
import { keepRunning, type Keeper } from "./keeper.ts";

/** Agents by name, each with how many commands at once its VMs may run. */
export const fleet = {
  "agent-1": [1, 2],
  "agent-2": [2, 3],
  "agent-3": [1, 4],
} as const satisfies Record<string, readonly number[]>;
export const agentNames = Object.keys(fleet);
export const vmNames = Object.entries(fleet).flatMap(([agent, vms]) =>
  vms.map((_, index) => `${agent}/vm-${index + 1}`),
);
export const processNames = [...serviceNames, ...agentNames];
export const brokerLinks = processNames.map((name) => `${name} to broker`);
export const databaseLinks = ["auth", "vm-ops", "reliability", "secrets"].map(
  (name) => `${name} to database`,
);

/** Everything that a fault can take hold of. */
export interface World {
  readonly system: System;
  readonly servers: Servers;
  readonly folder: string;
  readonly keeper: Keeper;
  process(name: string): ManagedProcess;
  link(name: string): FaultyLink;
  /** The VM's id. */
  vm(name: string): string;
  homeOf(agent: string): string;
  /** Whether the agents' homes are small disks of their own, which can be filled. */
  readonly smallDisks: boolean;
  /** The wall clock of one process is wrong by so much from now on. */
  shiftClock(process: string, shiftMs: number): Promise<void>;
  /** Stops everything; removes the folders unless they are to be looked at. */
  close(keep: boolean): Promise<void>;
}

/** Times as short as the services take them, so that a run of minutes sees what takes hours otherwise. */
const services = {
  "vm-ops": { MUSTER_VMOPS_LEASE_MS: "9000", MUSTER_RELIABILITY_HEARTBEAT_MS: "1000" },
  reliability: {
    MUSTER_VMOPS_RUNNING_MAX_MS: "60000",
    MUSTER_VMOPS_DISPATCHED_MAX_MS: "15000",
    MUSTER_RELIABILITY_SWEEP_INTERVAL_MS: "1000",
    MUSTER_RELIABILITY_HEARTBEAT_MS: "1000",
    MUSTER_RELIABILITY_SUSPECT_AFTER_MS: "4000",
    MUSTER_RELIABILITY_LOST_AFTER_MS: "8000",
    MUSTER_RELIABILITY_AUDIT_INTERVAL_MS: "5000",
    MUSTER_RELIABILITY_MIRROR_INTERVAL_MS: "2000",
  },
} as const;
const diskBytes = 48 * 1_048_576;

export async function openWorld(log: (line: string) => void): Promise<World> {
  const folder = await mkdtemp(join(tmpdir(), "muster-chaos-"));
  const serversFolder = join(folder, "servers");
  const servers = await startServers({ folder: serversFolder, durable: true, log, env: { PATH: pathOf() } });
  const links = new Map<string, FaultyLink>();
  const clockFile = (name: string): string => join(folder, `clock-${name}`);
  const clockOf = (name: string): Record<string, string> => ({
    NODE_OPTIONS: `--import=${fileURLToPath(new URL("./clock-shift.js", import.meta.url))}`,
    MUSTER_TEST_CLOCK_FILE: clockFile(name),
  });
  const envOf = (name: ServiceName): Record<string, string> => ({
    ...(name in services ? services[name as keyof typeof services] : {}),
    ...clockOf(name),
  });
  let system: System;
  try {
    system = await openSystem({
      servers,
      env: Object.fromEntries(serviceNames.map((name) => [name, envOf(name)])),
      through: async (process, to, url) => {
        const link = links.get(`${process} to ${to}`) ?? (await openFaultyLink(url));
        links.set(`${process} to ${to}`, link);
        // Whoever has two logins there has one link.
        const { hostname, port } = new URL(link.url);
        return Object.assign(new URL(url), { hostname, port }).href;
      },
    });
  } catch (error) {
    await servers.stop();
    throw error;
  }
  const disks = new Map<string, string>();
  const vms = new Map<string, string>();
  let smallDisks = true;
  for (const [name, concurrencies] of Object.entries(fleet)) {
    const home = join(folder, `${name}-home`);
    mkdirSync(home, { mode: 0o700 });
    smallDisks &&= mountDisk(home);
    disks.set(name, home);
    const vmUuids = [];
    for (const [index, concurrency] of concurrencies.entries()) {
      const vm = await system.registerVm(`${name}-${index + 1}`, concurrency);
      vms.set(`${name}/vm-${index + 1}`, vm);
      vmUuids.push(vm);
    }
    await system.startAgent({ name, home, vmUuids, env: clockOf(name) });
  }
  const processes = new Map<string, ManagedProcess>(
    [...Object.values(system.services), ...system.agents.map((agent) => agent.process)].map((one) => [
      one.name,
      one,
    ]),
  );
  const keeper = keepRunning([...processes.values()]);
  return {
    ...{ system, servers, folder, keeper, smallDisks },
    process: (name) => wanted(processes, name),
    link: (name) => wanted(links, name),
    vm: (name) => wanted(vms, name),
    homeOf: (agent) => wanted(disks, agent),
    shiftClock: (name, shiftMs) => writeFile(clockFile(name), String(shiftMs)),
    async close(keep) {
      await keeper.close();
      await system.close({ keep });
      for (const home of disks.values()) unmountDisk(home, keep ? `${home}-kept` : undefined);
      await Promise.all([...links.values()].map((link) => link.close()));
      await servers.stop();
      if (!keep) removeServerData(serversFolder);
      if (!keep) execFileSync("rm", ["-rf", folder]);
    },
  };
}

const pathOf = (): string => process.env["PATH"] ?? "/usr/bin:/bin";

function wanted<T>(found: ReadonlyMap<string, T>, name: string): T {
  const one = found.get(name);
  if (one === undefined) throw new Error(`there is no ${name}`);
  return one;
}

/** Answers false where this user may not mount. */
function mountDisk(folder: string): boolean {
  if (process.getuid?.() !== 0) return false;
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${diskBytes},mode=700`, "tmpfs", folder]);
    return true;
  } catch {
    return false;
  }
}

function unmountDisk(folder: string, keepIn: string | undefined): void {
  if (keepIn !== undefined) execFileSync("cp", ["-a", folder, keepIn]);
  try {
    execFileSync("umount", ["-l", folder], { stdio: "ignore" });
  } catch {
    // It was never mounted.
  }
}
