import type { Logger } from "@muster/telemetry/logger";
import type { BellDelivery, Closing, Transport } from "../transport/transport.ts";

/** Listens at the VMs that the mesh says this agent serves. */
export class Doorbells {
  readonly #transport: Transport;
  readonly #logger: Logger;
  readonly #onBell: (delivery: BellDelivery) => void;
  readonly #listening = new Map<string, Promise<Closing>>();
  #closed = false;

  constructor(o: { transport: Transport; logger: Logger; onBell: (delivery: BellDelivery) => void }) {
    this.#transport = o.transport;
    this.#logger = o.logger;
    this.#onBell = o.onBell;
  }

  /** Starts to listen at VMs that are new, stops at those that are gone. */
  serve(vmUuids: readonly string[]): void {
    if (this.#closed) return;
    for (const vm of vmUuids) {
      if (this.#listening.has(vm)) continue;
      const listening = this.#transport.listen(vm, this.#onBell);
      this.#listening.set(vm, listening);
      listening.catch((error: unknown) => {
        this.#listening.delete(vm);
        this.#logger.warn(
          { err: error, vm_uuid: vm },
          "cannot listen at this VM's queue; the next hello tries again",
        );
      });
    }
    for (const [vm, listening] of this.#listening) {
      if (vmUuids.includes(vm)) continue;
      this.#listening.delete(vm);
      void this.#stop(listening);
    }
  }

  async #stop(listening: Promise<Closing>): Promise<void> {
    await listening.then((consumer) => consumer.close()).catch(() => undefined);
  }

  get vmUuids(): string[] {
    return [...this.#listening.keys()];
  }

  async close(): Promise<void> {
    this.#closed = true;
    const all = [...this.#listening.values()];
    this.#listening.clear();
    await Promise.all(all.map((listening) => this.#stop(listening)));
  }
}
