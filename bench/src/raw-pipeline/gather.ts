interface Waiting<I> {
  readonly item: I;
  resolve(): void;
  reject(error: unknown): void;
}

/** What comes while `inFlightMax` batches are under way makes the next one, of `sizeMax` at most. */
export class Gather<I> {
  readonly #o: { sizeMax: number; inFlightMax: number; send: (items: readonly I[]) => Promise<void> };
  #waiting: Waiting<I>[] = [];
  #inFlight = 0;
  #soon: NodeJS.Immediate | undefined;

  constructor(o: { sizeMax: number; inFlightMax: number; send: (items: readonly I[]) => Promise<void> }) {
    this.#o = o;
  }

  add(item: I): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject });
      this.#soon ??= setImmediate(() => {
        this.#soon = undefined;
        this.#pump();
      });
    });
  }

  #pump(): void {
    while (this.#waiting.length > 0 && this.#inFlight < this.#o.inFlightMax) {
      void this.#send(this.#waiting.splice(0, this.#o.sizeMax));
    }
  }

  async #send(batch: readonly Waiting<I>[]): Promise<void> {
    this.#inFlight += 1;
    try {
      await this.#o.send(batch.map(({ item }) => item));
      for (const { resolve } of batch) resolve();
    } catch (error) {
      for (const { reject } of batch) reject(error);
    } finally {
      this.#inFlight -= 1;
      this.#pump();
    }
  }
}
