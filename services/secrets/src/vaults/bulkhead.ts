/** There is no place, and as many wait for one as may. */
export class BulkheadFull extends Error {
  override readonly name = "BulkheadFull";
}

interface Waiter {
  readonly enter: () => void;
}

/** Lets in so many at once and so many wait, in their order. */
export class Bulkhead {
  readonly #placesMax: number;
  readonly #waitingMax: number;
  readonly #waiting = new Set<Waiter>();
  #taken = 0;

  constructor(o: { placesMax: number; waitingMax: number }) {
    this.#placesMax = o.placesMax;
    this.#waitingMax = o.waitingMax;
  }

  /** Resolves with how to leave, once. Throws BulkheadFull at once, or the signal's reason while it waits. */
  async enter(signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    if (this.#taken < this.#placesMax) this.#taken += 1;
    else await this.#wait(signal);
    let inside = true;
    return () => {
      if (!inside) return;
      inside = false;
      this.#leave();
    };
  }

  #wait(signal: AbortSignal): Promise<void> {
    if (this.#waiting.size >= this.#waitingMax) throw new BulkheadFull("too many calls at once");
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        enter: () => {
          signal.removeEventListener("abort", giveUp);
          resolve();
        },
      };
      const giveUp = (): void => {
        this.#waiting.delete(waiter);
        reject(signal.reason as Error);
      };
      signal.addEventListener("abort", giveUp, { once: true });
      this.#waiting.add(waiter);
    });
  }

  /** The place goes to who waits the longest. */
  #leave(): void {
    const [next] = this.#waiting;
    if (next === undefined) {
      this.#taken -= 1;
      return;
    }
    this.#waiting.delete(next);
    next.enter();
  }
}
