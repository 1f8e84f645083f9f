import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { openMeshCaller } from "@muster/test/mesh-caller";
import { openSystem } from "@muster/test/system";
import { Pool } from "pg";
import { z } from "zod";
import { openClock, pass } from "./clock.ts";
import { closedLoop, openLoop } from "./load.ts";
import { profiled } from "./profile.ts";

const serviceNames = ["auth", "vm-ops", "reliability", "gateway"] as const;

export interface Muster {
  /** Accepted and completed in a second, asked for over the mesh by so many callers. */
  saturate(o: {
    inFlight: number;
    outstandingMax: number;
    seconds: number;
  }): Promise<{ accepted: number; completed: number; failed: number }>;
  /** At a fixed rate over the mesh; when each was asked for, by id. Resolves when all are done. */
  pace(o: { rate: number; seconds: number }): Promise<[id: string, askedMs: number][]>;
  /** How many commands have ended. */
  completed(): Promise<number>;
  settled(): Promise<void>;
  readonly front: { readonly url: string; readonly token: string; readonly bodies: readonly string[] };
  readonly database: Pool;
  readonly pids: readonly number[];
  close(): Promise<void>;
}

/** The whole system with its log as in production, one echoing agent for all VMs, and a client on the mesh. */
export async function openMuster(o: { vms: number; payload: string }): Promise<Muster> {
  const production = (name: string) => ({
    MUSTER_LOG_LEVEL: "info",
    NODE_ENV: "production",
    ...profiled(name),
  });
  const env = Object.fromEntries(serviceNames.map((name) => [name, production(name)]));
  const system = await openSystem({ env });
  const database = new Pool({
    connectionString: system.adminDatabaseUrl,
    max: 2,
    options: "-c search_path=vm_ops",
  });
  const caller = await openMeshCaller(system.vhost);
  const close = async (): Promise<void> => {
    await caller.close();
    await database.end();
    await system.close();
  };
  try {
    const vmUuids: string[] = [];
    for (let n = 0; n < o.vms; n++) vmUuids.push(await system.registerVm(`vm-${n}`, 64));
    const agent = await system.startAgent({
      vmUuids,
      env: { ...production("agent"), MUSTER_AGENT_DRIVERS: "echo" },
    });
    // By HTTP the caller brings an access token; the mesh sees the asker's own, for each request.
    const token = (await system.client.exchangeApiKey()).data.access_token;
    const { tenant_id, subject, roles, permissions } = (await system.client.whoami()).data;
    const who = { tenant_id, subject, roles, permissions };
    const commandFor = (n: number) => ({
      vm_uuid: vmUuids[n % vmUuids.length]!,
      action: "script" as const,
      params: { interpreter: "sh", text: o.payload },
    });
    const accept = async (n: number): Promise<string> => {
      const { command } = await caller.ask(vmOpsRequests.acceptCommand, { command: commandFor(n) }, who);
      return command.id;
    };
    const count = async (where: string): Promise<number> => {
      const { rows } = await database.query(`SELECT count(*)::integer AS count FROM commands WHERE ${where}`);
      return z.array(z.object({ count: z.number() })).parse(rows)[0]?.count ?? 0;
    };
    const open = (): Promise<number> => count("phase IN ('waiting', 'running')");
    const settled = async (): Promise<void> => {
      while ((await open()) > 0) await pass(100);
    };
    return {
      saturate: async ({ inFlight, outstandingMax, seconds }) => {
        const before = await count("phase = 'ended'");
        let outstanding = 0;
        // A look at the two partial indexes now and then is enough to keep the bound.
        const watch = setInterval(() => void open().then((now) => (outstanding = now)), 250);
        const startedMs = performance.now();
        const loop = await closedLoop({ inFlight, seconds }, async (n) => {
          while (outstanding >= outstandingMax) await pass(2);
          await accept(n);
        });
        clearInterval(watch);
        const completed = (await count("phase = 'ended'")) - before;
        const elapsed = (performance.now() - startedMs) / 1_000;
        await settled();
        return { accepted: loop.done / elapsed, completed: completed / elapsed, failed: loop.failed };
      },
      pace: async ({ rate, seconds }) => {
        const clock = openClock();
        const times: [string, number][] = [];
        await openLoop({ rate, seconds }, async (n) => {
          const askedMs = clock();
          times.push([await accept(n), askedMs]);
        });
        await settled();
        return times;
      },
      completed: () => count("phase = 'ended'"),
      settled,
      front: {
        url: `${system.gatewayUrl}/api/v1/vm-ops/commands`,
        token,
        bodies: vmUuids.map((_, n) => JSON.stringify(commandFor(n))),
      },
      database,
      pids: [...serviceNames.map((name) => system.services[name].pid), agent.process.pid],
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
