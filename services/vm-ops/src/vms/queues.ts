import { vmQueueName } from "@muster/contracts/agents";
import { vmOpsEvents } from "@muster/contracts/vm-ops";
import type { PreparedMessage } from "@muster/contracts/message";
import type { Broker } from "@muster/broker/broker";
import type { Database } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import type { VmOpsMetrics } from "../metrics.ts";

/** Sees to it that every active VM has its queue and that retired ones lose theirs. */
export interface VmQueues {
  /** Makes this queue before it returns; a failure is left to the next round. */
  makeNow(tenantId: string, vmUuid: string): Promise<void>;
  /** A message found no queue: makes the VM's again, unless the VM is gone. */
  onUnroutable(message: PreparedMessage): Promise<"retry" | "drop">;
  /** Looks around soon. */
  nudge(): void;
  close(): Promise<void>;
}

interface VmKey {
  readonly tenant_id: string;
  readonly vm_uuid: string;
}

const pageSize = 500;
const declaresAtOnce = 8;
const nudgeMs = 50;
/** A retired VM's queue outlives its last command, but not for ever. */
const queueKeptMaxMs = 600_000;

const external = new Set(
  Object.values(vmOpsEvents).filter((event) => event.external).map((event) => event.name), // prettier-ignore
);

export function openVmQueues(o: {
  database: Pick<Database, "transaction">;
  broker: Pick<Broker, "ensureVmQueue" | "deleteQueue">;
  metrics: VmOpsMetrics;
  logger: Logger;
  everyMs?: number;
}): VmQueues {
  const everyMs = o.everyMs ?? 60_000;
  let after: VmKey | undefined;
  let firstRound = true;
  let closed = false;
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> = Promise.resolve();

  async function make(vms: readonly VmKey[]): Promise<void> {
    const made: VmKey[] = [];
    await inParallel(vms, declaresAtOnce, async (vm) => {
      await o.broker.ensureVmQueue(vmQueueName(vm.tenant_id, vm.vm_uuid));
      made.push(vm);
    }).finally(() => markReady(made));
  }

  async function markReady(vms: readonly VmKey[]): Promise<void> {
    if (vms.length === 0) return;
    const values = [vms.map((vm) => vm.tenant_id), vms.map((vm) => vm.vm_uuid)];
    const marked = await o.database.transaction("system", (tx) =>
      tx.execute(
        `UPDATE vms v SET queue_ready_at = now() FROM unnest($1::text[], $2::uuid[]) AS g(tenant_id, vm_uuid)
         WHERE v.tenant_id = g.tenant_id AND v.vm_uuid = g.vm_uuid AND v.queue_ready_at IS NULL`,
        values,
      ),
    );
    o.metrics.queuesMade.inc({ operation: "made" }, marked);
  }

  /** Those that never had one, then one page of all others: in the first round every page. */
  async function makeMissing(): Promise<void> {
    const fresh = await o.database.transaction("system", (tx) =>
      tx.query<VmKey>(
        `SELECT tenant_id, vm_uuid FROM vms WHERE state = 'active' AND queue_ready_at IS NULL
         ORDER BY registered_at LIMIT $1`,
        [pageSize],
      ),
    );
    await make(fresh);
    do {
      const page = await o.database.transaction("system", (tx) =>
        tx.query<VmKey>(
          `SELECT tenant_id, vm_uuid FROM vms WHERE state = 'active' AND queue_ready_at IS NOT NULL
             AND (tenant_id, vm_uuid) > ($1, $2::uuid) ORDER BY tenant_id, vm_uuid LIMIT $3`,
          [after?.tenant_id ?? "", after?.vm_uuid ?? "00000000-0000-0000-0000-000000000000", pageSize],
        ),
      );
      await make(page);
      after = page.length < pageSize ? undefined : page.at(-1);
    } while (firstRound && after !== undefined && !closed);
    firstRound = false;
  }

  async function removeOld(): Promise<void> {
    const old = await o.database.transaction("system", (tx) =>
      tx.query<VmKey>(
        `SELECT v.tenant_id, v.vm_uuid FROM vms v WHERE v.state = 'retired' AND v.queue_removed_at IS NULL
           AND (v.retired_at < now() - $2 * interval '1 ms' OR NOT EXISTS (SELECT 1 FROM commands c
             WHERE c.tenant_id = v.tenant_id AND c.vm_uuid = v.vm_uuid AND c.phase = 'running'))
         ORDER BY v.retired_at LIMIT $1`,
        [pageSize, queueKeptMaxMs],
      ),
    );
    for (const vm of old) {
      if (closed) return;
      await o.broker.deleteQueue(vmQueueName(vm.tenant_id, vm.vm_uuid));
      await o.database.transaction("system", (tx) =>
        tx.execute("UPDATE vms SET queue_removed_at = now() WHERE tenant_id = $1 AND vm_uuid = $2", [
          vm.tenant_id,
          vm.vm_uuid,
        ]),
      );
      o.metrics.queuesMade.inc({ operation: "removed" });
    }
  }

  async function round(): Promise<void> {
    try {
      await removeOld();
      await makeMissing();
    } catch (error) {
      if (!closed)
        o.logger.warn({ err: error }, "VM queues could not be seen to; the next round tries again");
    }
  }

  let nudged = false;
  let busy = false;

  function schedule(ms: number): void {
    clearTimeout(timer);
    if (closed) return;
    timer = setTimeout(() => (running = look()), ms);
    timer.unref();
  }

  async function look(): Promise<void> {
    busy = true;
    nudged = false;
    await round();
    busy = false;
    schedule(nudged ? nudgeMs : everyMs);
  }

  function nudge(): void {
    nudged = true;
    if (!busy) schedule(nudgeMs);
  }

  async function again(tenantId: string, vmUuid: string): Promise<"retry" | "drop"> {
    const [vm] = await o.database.transaction("system", (tx) =>
      tx.query<{ state: string }>("SELECT state FROM vms WHERE tenant_id = $1 AND vm_uuid = $2", [
        tenantId,
        vmUuid,
      ]),
    );
    if (vm === undefined || vm.state === "retired") return "drop";
    await o.broker.ensureVmQueue(vmQueueName(tenantId, vmUuid));
    return "retry";
  }

  schedule(0);
  return {
    async makeNow(tenant_id, vm_uuid) {
      try {
        await make([{ tenant_id, vm_uuid }]);
      } catch (error) {
        o.logger.warn({ err: error, vm_uuid }, "a VM's queue could not be made at once");
        nudge();
      }
    },
    async onUnroutable(message) {
      if (external.has(message.type)) return "drop";
      const [, tenantId, vmUuid] = vmQueueShape.exec(message.routingKey) ?? [];
      if (message.exchange !== "" || tenantId === undefined || vmUuid === undefined) return "retry";
      return again(tenantId, vmUuid);
    },
    nudge,
    async close() {
      closed = true;
      clearTimeout(timer);
      await running;
    },
  };
}

const vmQueueShape = /^vm\.([a-z0-9-]+)\.([0-9a-f-]{36})\.commands$/;

/** Runs the work over all items, so many at once; rejects with the first failure after the running ones ended. */
async function inParallel<T>(
  items: readonly T[],
  atOnce: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const left = [...items];
  let failure: unknown;
  await Promise.all(
    Array.from({ length: Math.min(atOnce, items.length) }, async () => {
      for (let item = left.shift(); item !== undefined && failure === undefined; item = left.shift()) {
        await work(item).catch((error: unknown) => (failure ??= error ?? new Error("failed")));
      }
    }),
  );
  if (failure !== undefined) throw failure;
}
