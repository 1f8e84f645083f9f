export interface BatcherOptions<I, R> {
  readonly sizeMax: number;
  readonly bytesMax: number;
  /** Messages under way at once; meanwhile items gather, so load makes batches by itself. */
  readonly inFlightMax: number;
  readonly bytesOf: (item: I) => number;
  /** One answer per item, in their order; a missing one is an error for that item alone. */
  readonly send: (items: readonly I[]) => Promise<readonly (R | undefined)[]>;
}

interface Waiting<I, R> {
  readonly item: I;
  resolve(answer: R): void;
  reject(error: unknown): void;
}

/** Sends items of one turn of the event loop, and those that gather behind a slow answer, as one message. */
export class Batcher<I, R> {
  readonly #options: BatcherOptions<I, R>;
  #waiting: Waiting<I, R>[] = [];
  #inFlight = 0;
  #soon: NodeJS.Immediate | undefined;

  constructor(options: BatcherOptions<I, R>) {
    this.#options = options;
  }

  add(item: I): Promise<R> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject });
      this.#soon ??= setImmediate(() => {
        this.#soon = undefined;
        this.#pump();
      });
    });
  }

  #pump(): void {
    while (this.#waiting.length > 0 && this.#inFlight < this.#options.inFlightMax)
      void this.#send(this.#take());
  }

  #take(): Waiting<I, R>[] {
    const { sizeMax, bytesMax, bytesOf } = this.#options;
    let bytes = 0;
    let count = 0;
    for (const { item } of this.#waiting) {
      bytes += bytesOf(item);
      // One item always goes, however large.
      if (count === sizeMax || (count > 0 && bytes > bytesMax)) break;
      count += 1;
    }
    return this.#waiting.splice(0, count);
  }

  async #send(batch: Waiting<I, R>[]): Promise<void> {
    this.#inFlight += 1;
    try {
      const answers = await this.#options.send(batch.map(({ item }) => item));
      batch.forEach(({ resolve, reject }, index) => {
        const answer = answers[index];
        if (answer === undefined) reject(new Error("the reply says nothing about this item"));
        else resolve(answer);
      });
    } catch (error) {
      for (const { reject } of batch) reject(error);
    } finally {
      this.#inFlight -= 1;
      this.#pump();
    }
  }
}

interface Keyed {
  readonly command_id: string;
  readonly attempt: number;
}

/** Puts answers into the order of the items: by place where the keys agree, else by key. */
export function inOrder<A extends Keyed>(items: readonly Keyed[], answers: readonly A[]): (A | undefined)[] {
  const same = (a: Keyed, b: Keyed | undefined): boolean =>
    a.command_id === b?.command_id && a.attempt === b.attempt;
  return items.map((item, index) => {
    const there = answers[index];
    return same(item, there) ? there : answers.find((answer) => same(item, answer));
  });
}
