import { vmQueue } from "@muster/contracts/topology";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { openAdmin, type Admin } from "@muster/database/admin";
import { openMeshCaller } from "@muster/test/mesh-caller";
import { openSystem } from "@muster/test/system";
import { pass } from "../harness/clock.ts";
import { median } from "../harness/figure.ts";
import { inParallel, oneAfterAnother } from "./loops.ts";
import { openBare, type Bare } from "./bare.ts";

export type QueueType = "classic" | "quorum";

/** A system of its own with so many VMs, and nobody who takes their doorbells. */
export interface Fleet {
  readonly vms: number;
  readonly bare: Bare;
  /** Until the last VM was registered and had its queue, in ms. */
  readonly registeredMs: number;
  /** One at a time, from acceptance until the doorbell's confirm was written down; by the database's clock, in ms. */
  oneByOne(count: number): Promise<{ dispatchMs: number; acceptMs: number }>;
  /** So many asked for at once; dispatched a second, from the first acceptance to the last confirm. */
  windowed(count: number, window: number): Promise<number>;
  close(): Promise<void>;
}

const registrationsAtOnce = 64;

export async function openFleet(vms: number, type: QueueType): Promise<Fleet> {
  const quiet = { MUSTER_LOG_LEVEL: "info", NODE_ENV: "production", MUSTER_VM_QUEUE_TYPE: type };
  const system = await openSystem({
    env: { "vm-ops": quiet, auth: quiet, reliability: quiet, gateway: quiet },
  });
  const admin = await openAdmin(system.adminDatabaseUrl);
  await admin.run("SET search_path = vm_ops");
  const caller = await openMeshCaller(system.vhost);
  const { tenant_id, subject, roles, permissions } = (await system.client.whoami()).data;
  const who = { tenant_id, subject, roles, permissions };
  // Nothing but the way of a command: no sweeps, no audits, no HTTP.
  await system.services.gateway.stop();
  await system.services.reliability.stop();

  const fromMs = performance.now();
  const vmUuids: string[] = [];
  await inParallel(vms, registrationsAtOnce, async (n) => {
    const vm = { name: `vm-${n}`, concurrency: 1, labels: {} };
    const registered = await caller.ask(vmOpsRequests.registerVm, { vm }, who, { timeoutMs: 60_000 });
    vmUuids.push(registered.vm.vm_uuid);
  });
  await allHaveQueues(admin);
  const registeredMs = performance.now() - fromMs;
  let next = 0;
  const accept = async (): Promise<void> => {
    const vm_uuid = vmUuids[next++ % vms]!;
    const params = { interpreter: "sh", text: "#".repeat(500) };
    await caller.ask(vmOpsRequests.acceptCommand, { command: { vm_uuid, action: "script", params } }, who);
  };
  return {
    vms,
    registeredMs,
    bare: await openBare(
      system.amqpUrl,
      vmUuids.map((vmUuid) => vmQueue(system.tenantId, vmUuid)),
    ),
    async oneByOne(count) {
      const took = await oneAfterAnother(count, async () => {
        await accept();
        await allDispatched(admin);
      });
      const { latencies } = await take(admin);
      return { dispatchMs: median(latencies), acceptMs: median(took) };
    },
    async windowed(count, window) {
      await inParallel(count, window, accept);
      await allDispatched(admin);
      const { latencies, spanMs } = await take(admin);
      return (latencies.length * 1_000) / spanMs;
    },
    async close() {
      await caller.close();
      await admin.close();
      await system.close();
    },
  };
}

async function until(admin: Admin, left: string): Promise<void> {
  for (;;) {
    const [row] = await admin.query<{ left: boolean }>(`SELECT EXISTS (${left}) AS left`);
    if (row?.left !== true) return;
    await pass(2);
  }
}

const allHaveQueues = (admin: Admin): Promise<void> =>
  until(admin, "SELECT 1 FROM vms WHERE state = 'active' AND queue_ready_at IS NULL");

const allDispatched = (admin: Admin): Promise<void> =>
  until(admin, "SELECT 1 FROM commands WHERE phase = 'waiting' AND state = 'queued'");

/** Reads the times of what was dispatched, and ends it, so that nothing waits for the next measurement. */
async function take(admin: Admin): Promise<{ latencies: number[]; spanMs: number }> {
  const rows = await admin.query<{ accepted: number; dispatched: number }>(
    `WITH ended AS (UPDATE commands SET state = 'cancelled', reason = 'cancelled_before_start', finished_at = now()
       WHERE phase = 'waiting' RETURNING accepted_at, dispatched_at)
     SELECT extract(epoch FROM accepted_at)::float8 * 1000 AS accepted,
       extract(epoch FROM dispatched_at)::float8 * 1000 AS dispatched FROM ended`,
  );
  const latencies = rows.map(({ accepted, dispatched }) => dispatched - accepted);
  const first = rows.reduce((least, { accepted }) => Math.min(least, accepted), Infinity);
  const last = rows.reduce((most, { dispatched }) => Math.max(most, dispatched), 0);
  return { latencies, spanMs: last - first };
}
