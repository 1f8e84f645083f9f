import type { Lane } from "@muster/contracts/actions";

/** What the lanes need to know of a command: where it queues and in which lane. */
export interface Queued {
  readonly vmUuid: string;
  readonly lane: Lane;
  /** Sorts nearly as the order of acceptance: commands' ids are UUIDv7. Only vm-ops knows the very order. */
  readonly order: string;
}

interface VmLanes<Q> {
  concurrency: number;
  /** By their ids, whatever the order in which their doorbells came. */
  readonly waiting: Q[];
  /** Of those the ones that were told to come again later. */
  readonly resting: Set<Q>;
  busy: number;
}

/**
 * Which command of which VM is next: work by its ids, as many at once as the VM allows; control passes. After a crash
 * doorbells come in any order, and ids made at the same moment may differ from the order of acceptance. A command must
 * never hold the place that the one it waits for needs to be claimed: told to wait, it gives its place to all others.
 */
export class Lanes<Q extends Queued> {
  readonly #vms = new Map<string, VmLanes<Q>>();

  #vm(vmUuid: string): VmLanes<Q> {
    let vm = this.#vms.get(vmUuid);
    if (vm === undefined) {
      vm = { concurrency: 1, waiting: [], resting: new Set(), busy: 0 };
      this.#vms.set(vmUuid, vm);
    }
    return vm;
  }

  setConcurrency(vmUuid: string, concurrency: number): void {
    this.#vm(vmUuid).concurrency = concurrency;
  }

  waitingCount(vmUuid: string): number {
    return this.#vms.get(vmUuid)?.waiting.length ?? 0;
  }

  add(item: Q): void {
    const { waiting } = this.#vm(item.vmUuid);
    let at = waiting.length;
    while (at > 0 && (waiting[at - 1]?.order ?? "") > item.order) at -= 1;
    waiting.splice(at, 0, item);
  }

  /** Waits again, in its place, until `wake`. Its slot is still to be released. */
  rest(item: Q): void {
    this.#vm(item.vmUuid).resting.add(item);
    this.add(item);
  }

  wake(item: Q): void {
    this.#vm(item.vmUuid).resting.delete(item);
  }

  /** Counts a command that is already under way, such as one found running after a restart. */
  occupy(item: Q): void {
    if (item.lane === "work") this.#vm(item.vmUuid).busy += 1;
  }

  /** Takes what may go ahead now; each is to be released once it is over. */
  take(vmUuid: string): Q[] {
    const vm = this.#vm(vmUuid);
    const ready: Q[] = [];
    const rest: Q[] = [];
    for (const item of vm.waiting) {
      if (vm.resting.has(item)) rest.push(item);
      else if (item.lane === "control") ready.push(item);
      else if (vm.busy < vm.concurrency) {
        vm.busy += 1;
        ready.push(item);
      } else rest.push(item);
    }
    vm.waiting.splice(0, vm.waiting.length, ...rest);
    return ready;
  }

  release(item: Q): void {
    if (item.lane === "work") this.#vm(item.vmUuid).busy -= 1;
  }
}
