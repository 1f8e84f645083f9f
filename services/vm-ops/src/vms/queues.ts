import { vmQueue } from "@muster/contracts/topology";
import { vmOpsEvents } from "@muster/contracts/vm-ops";
import type { PreparedMessage, PublishVerdict } from "@muster/contracts/message";
import type { Broker } from "@muster/broker/broker";
import type { Database } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import type { VmOpsMetrics } from "../metrics.ts";
import { ringAgain } from "./ring-again.ts";
import {
  isActive,
  markQueueRemoved,
  markQueuesReady,
  vmsWithOldQueue,
  vmsWithoutQueue,
  vmsWithQueue,
} from "./store-queues.ts";
import type { VmKey } from "./store-queues.ts";

/** Sees to it that every active VM has its queue and that retired ones lose theirs. */
export interface VmQueues {
  /** Makes this queue before it returns; a failure is left to the next round. */
  makeNow(tenantId: string, vmUuid: string): Promise<void>;
  /** A message found no queue: makes the VM's again, unless the VM is gone. */
  onUnroutable(message: PreparedMessage): Promise<"retry" | "drop">;
  /**
   * Publishes. A doorbell that is not confirmed in time raises the suspicion that its queue is beyond answering: until
   * that is cleared up nothing more is sent there, since it would hold up what is sent to others.
   */
  publish(message: PreparedMessage): Promise<PublishVerdict>;
  /** Looks around soon. */
  nudge(): void;
  close(): Promise<void>;
}

export interface VmQueuesOptions {
  readonly database: Pick<Database, "transaction">;
  readonly broker: Pick<Broker, "publish" | "ensureVmQueue" | "deleteQueue" | "repairVmQueues" | "state">;
  readonly metrics: VmOpsMetrics;
  readonly logger: Logger;
  readonly everyMs?: number;
}

const pageSize = 500;
const declaresAtOnce = 8;
const nudgeMs = 50;
/** A retired VM's queue outlives its last command, but not for ever. */
const queueKeptMaxMs = 600_000;
const suspectsMax = 1_000;
const doorbellTimeoutMs = 5_000;
const watchMs = 1_000;
const vmQueueShape = /^vm\.([a-z0-9-]+)\.([0-9a-f-]{36})\.commands$/;

const external = new Set(
  Object.values(vmOpsEvents).filter((event) => event.external).map((event) => event.name), // prettier-ignore
);

export function openVmQueues(o: VmQueuesOptions): VmQueues {
  const queues = new Reconciler(o);
  queues.nudge();
  return queues;
}

class Reconciler implements VmQueues {
  readonly #o: VmQueuesOptions;
  #after: VmKey | undefined;
  #firstRound = true;
  /** Queues that may be stuck; a lost one is suspected again by the next doorbell. */
  readonly #suspects = new Set<string>();
  readonly #watch: NodeJS.Timeout;
  #connected = true;
  #nudged = false;
  #busy = false;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> = Promise.resolve();

  constructor(o: VmQueuesOptions) {
    this.#o = o;
    this.#watch = setInterval(() => this.#lookAtBroker(), watchMs);
    this.#watch.unref();
  }

  /** A broker that was away may have come back with queues that answer nothing: the next round looks at each. */
  #lookAtBroker(): void {
    const { state } = this.#o.broker;
    const connected = state === "connected" || state === "blocked";
    if (connected && !this.#connected) {
      this.#firstRound = true;
      this.nudge();
    }
    this.#connected = connected;
  }

  async publish(message: PreparedMessage): Promise<PublishVerdict> {
    const queue = message.exchange === "" && vmQueueShape.test(message.routingKey) && message.routingKey;
    if (queue === false) return this.#o.broker.publish(message);
    if (this.#suspects.has(queue)) return { kind: "unknown", reason: "its queue is being looked at" };
    const verdict = await this.#o.broker.publish(message, { timeoutMs: doorbellTimeoutMs });
    if (verdict.kind === "unknown" && this.#o.broker.state === "connected") {
      if (this.#suspects.size < suspectsMax) this.#suspects.add(queue);
      this.nudge();
    }
    return verdict;
  }

  async makeNow(tenant_id: string, vm_uuid: string): Promise<void> {
    try {
      await this.#make([{ tenant_id, vm_uuid }]);
    } catch (error) {
      this.#o.logger.warn({ err: error, vm_uuid }, "a VM's queue could not be made at once");
      this.nudge();
    }
  }

  async onUnroutable(message: PreparedMessage): Promise<"retry" | "drop"> {
    if (external.has(message.type)) return "drop";
    const [, tenant_id, vm_uuid] = vmQueueShape.exec(message.routingKey) ?? [];
    if (message.exchange !== "" || tenant_id === undefined || vm_uuid === undefined) return "retry";
    if (!(await isActive(this.#o.database, { tenant_id, vm_uuid }))) return "drop";
    await this.#o.broker.ensureVmQueue(vmQueue(tenant_id, vm_uuid));
    return "retry";
  }

  nudge(): void {
    this.#nudged = true;
    if (!this.#busy) this.#schedule(nudgeMs);
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    clearInterval(this.#watch);
    await this.#running;
  }

  #schedule(ms: number): void {
    clearTimeout(this.#timer);
    if (this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#running = this.#look();
    }, ms);
    this.#timer.unref();
  }

  async #look(): Promise<void> {
    this.#busy = true;
    this.#nudged = false;
    try {
      await this.#repairSuspects();
      await this.#removeOld();
      await this.#makeMissing();
    } catch (error) {
      const text = "VM queues could not be seen to; the next round tries again";
      if (!this.#closed) this.#o.logger.warn({ err: error }, text);
    }
    this.#busy = false;
    this.#schedule(this.#nudged ? nudgeMs : (this.#o.everyMs ?? 60_000));
  }

  async #repairSuspects(): Promise<void> {
    const suspects = [...this.#suspects];
    try {
      await this.#repair(suspects);
    } finally {
      for (const queue of suspects) this.#suspects.delete(queue);
    }
  }

  /** Their doorbells are lost with the old queue; the rows say which they were. */
  async #repair(queues: readonly string[]): Promise<void> {
    for (const queue of await this.#o.broker.repairVmQueues(queues)) {
      const [, tenant_id, vm_uuid] = vmQueueShape.exec(queue) ?? [];
      if (tenant_id === undefined || vm_uuid === undefined) continue;
      const rung = await ringAgain(this.#o.database, { tenant_id, vm_uuid });
      this.#o.metrics.queuesMade.inc({ operation: "repaired" });
      this.#o.logger.warn({ event: "doorbells_rung_again", vm_uuid, rung }, "a VM's queue was made anew");
    }
  }

  async #removeOld(): Promise<void> {
    for (const vm of await vmsWithOldQueue(this.#o.database, queueKeptMaxMs, pageSize)) {
      if (this.#closed) return;
      await this.#o.broker.deleteQueue(vmQueue(vm.tenant_id, vm.vm_uuid));
      await markQueueRemoved(this.#o.database, vm);
      this.#o.metrics.queuesMade.inc({ operation: "removed" });
    }
  }

  /** Those that never had one, then one page of all others: in the first round every page. */
  async #makeMissing(): Promise<void> {
    await this.#make(await vmsWithoutQueue(this.#o.database, pageSize));
    do {
      const page = await vmsWithQueue(this.#o.database, this.#after, pageSize);
      await this.#make(page);
      if (this.#firstRound) await this.#repair(page.map((vm) => vmQueue(vm.tenant_id, vm.vm_uuid)));
      this.#after = page.length < pageSize ? undefined : page.at(-1);
    } while (this.#firstRound && this.#after !== undefined && !this.#closed);
    this.#firstRound = false;
  }

  async #make(vms: readonly VmKey[]): Promise<void> {
    const made: VmKey[] = [];
    try {
      await inParallel(vms, declaresAtOnce, async (vm) => {
        if (this.#closed) return;
        await this.#o.broker.ensureVmQueue(vmQueue(vm.tenant_id, vm.vm_uuid));
        made.push(vm);
      });
    } finally {
      const fresh = await markQueuesReady(this.#o.database, made);
      this.#o.metrics.queuesMade.inc({ operation: "made" }, fresh);
    }
  }
}

/** Runs the work over all items, so many at once; rejects with the first failure after the running ones ended. */
async function inParallel<T>(
  items: readonly T[],
  atOnce: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const left = [...items];
  const failures: unknown[] = [];
  const worker = async (): Promise<void> => {
    for (let item = left.shift(); item !== undefined && failures.length === 0; item = left.shift()) {
      await work(item).catch((error: unknown) => failures.push(error));
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, worker));
  if (failures.length > 0) throw new Error("a queue could not be made", { cause: failures[0] });
}
