import type { Lane } from "@muster/contracts/actions";

/** What the lanes need to know of a command: where it queues and in which lane. */
export interface Queued {
  readonly vmUuid: string;
  readonly lane: Lane;
}

interface VmLanes<Q> {
  concurrency: number;
  /** In the order of their doorbells. */
  readonly waiting: Q[];
  busy: number;
}

/** Which command of which VM is next: work in the order of its doorbells, as many at once as the VM allows; control passes. */
export class Lanes<Q extends Queued> {
  readonly #vms = new Map<string, VmLanes<Q>>();

  #vm(vmUuid: string): VmLanes<Q> {
    let vm = this.#vms.get(vmUuid);
    if (vm === undefined) {
      vm = { concurrency: 1, waiting: [], busy: 0 };
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
    this.#vm(item.vmUuid).waiting.push(item);
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
      if (item.lane === "control") ready.push(item);
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
