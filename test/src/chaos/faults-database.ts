import { openAdmin } from "@muster/database/admin";
import { allProcesses } from "@muster/scripts/system/process-table";
import type { Fault } from "./fault.ts";
import type { World } from "./world.ts";

const resource = "database";

const tables = [
  "vm_ops.commands",
  "vm_ops.command_events",
  "vm_ops.command_output",
  "vm_ops.agent_sessions",
  "vm_ops.vms",
  "vm_ops.liveness",
  "vm_ops.outbox",
  "vm_ops.inbox",
  "reliability.presence",
  "reliability.dead_letters",
  "reliability.outbox",
  "auth.api_keys",
  "auth.signing_keys",
];

/** The server and its workers, each a process of its own. */
function signalAll(world: World, name: NodeJS.Signals): void {
  const main = world.servers.database.main();
  if (main === undefined) throw new Error("the database does not run, or is not ours");
  for (const { pid, parent } of allProcesses()) {
    if (pid === main.pid || parent === main.pid) process.kill(pid, name);
  }
}

export const databaseFaults: readonly Fault[] = [
  {
    name: "database killed",
    ...{ targets: ["database"], resource },
    lastsMs: [500, 9_000],
    async inject({ servers }) {
      await servers.killDatabase("SIGKILL");
      return { heal: () => servers.restartDatabase() };
    },
  },
  {
    name: "database stopped",
    ...{ targets: ["database"], resource },
    lastsMs: [2_000, 15_000],
    async inject(world) {
      signalAll(world, "SIGSTOP");
      return { heal: async () => signalAll(world, "SIGCONT") };
    },
  },
  {
    name: "table locked",
    targets: tables,
    resource,
    lastsMs: [2_000, 14_000],
    async inject({ system }, target) {
      const admin = await openAdmin(system.adminDatabaseUrl);
      await admin.run("BEGIN");
      await admin.run(`SET LOCAL lock_timeout = '10s'; LOCK TABLE ${target} IN ACCESS EXCLUSIVE MODE`);
      return {
        heal: async () => {
          await admin.run("ROLLBACK");
          await admin.close();
        },
      };
    },
  },
];
