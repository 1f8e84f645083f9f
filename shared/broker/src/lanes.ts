import { Condition } from "./waiting.ts";

export interface LaneOptions {
  /** Items handled together at most. */
  readonly sizeMax: number;
  /** How long the first of a batch waits for company; 0 is until the end of this turn of the event loop. */
  readonly waitMs: number;
  /** Batches in work at once. */
  readonly concurrency: number;
}

/**
 * Gathers items into batches and works them off in order of arrival. What came while all workers were busy has
 * waited enough: it starts as soon as one is free. Bounded by the prefetch of the consumer that fills it.
 */
export class Lane<T> {
  readonly #options: LaneOptions;
  readonly #work: (items: readonly T[]) => Promise<void>;
  readonly #onError: (error: unknown) => void;
  readonly #idle = new Condition(() => this.#running === 0 && this.#pending.length === 0);
  #pending: T[] = [];
  #running = 0;
  #timer: NodeJS.Timeout | undefined;
  #soon: NodeJS.Immediate | undefined;

  constructor(
    options: LaneOptions,
    work: (items: readonly T[]) => Promise<void>,
    onError: (error: unknown) => void,
  ) {
    this.#options = options;
    this.#work = work;
    this.#onError = onError;
  }

  push(item: T): void {
    this.#pending.push(item);
    if (this.#running >= this.#options.concurrency) return;
    const { sizeMax, waitMs } = this.#options;
    if (sizeMax === 1 || this.#pending.length >= sizeMax) this.#start();
    // What came in one piece from the network is handled as one batch.
    else if (waitMs === 0) this.#soon ??= setImmediate(() => this.#start());
    else this.#timer ??= setTimeout(() => this.#start(), waitMs);
  }

  #start(): void {
    this.#forgetTimers();
    if (this.#pending.length === 0 || this.#running >= this.#options.concurrency) return;
    const items = this.#pending.splice(0, this.#options.sizeMax);
    this.#running += 1;
    this.#work(items)
      .catch(this.#onError)
      .finally(() => {
        this.#running -= 1;
        this.#start();
        this.#idle.poke();
      });
  }

  #forgetTimers(): void {
    clearTimeout(this.#timer);
    clearImmediate(this.#soon);
    this.#timer = undefined;
    this.#soon = undefined;
  }

  /** What nobody has begun, for giving back. */
  takeUnstarted(): T[] {
    this.#forgetTimers();
    const items = this.#pending;
    this.#pending = [];
    this.#idle.poke();
    return items;
  }

  idle(timeoutMs: number): Promise<boolean> {
    return this.#idle.reached(timeoutMs);
  }
}
