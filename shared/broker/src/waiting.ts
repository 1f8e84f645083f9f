/** Exponential backoff with full jitter: anything from 0 to `baseMs * 2^attempt`, at most `maxMs`. */
export function fullJitterMs(
  attempt: number,
  baseMs: number,
  maxMs: number,
  random: () => number = Math.random,
): number {
  return Math.floor(random() * Math.min(maxMs, baseMs * 2 ** Math.min(attempt, 30)));
}

/** What lived this long starts its backoff anew when it is lost. */
const stableMs = 5_000;

/**
 * Which attempt follows when what was up for so long is lost. A loss soon after counts as a failure: each connection
 * that is taken back at once takes messages with it, and each time counts against their delivery limit.
 */
export function attemptAfterLoss(attempt: number, upMs: number): number {
  return upMs > stableMs ? 0 : attempt + 1;
}

export class TimeoutError extends Error {
  override readonly name = "TimeoutError";
}

/** The promise's outcome, or a TimeoutError after `timeoutMs`. What was started goes on unless its owner stops it. */
export function within<T>(promise: Promise<T>, timeoutMs: number, doing: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new TimeoutError(`${doing} took longer than ${timeoutMs} ms`)),
      timeoutMs,
    );
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** Resolves after `delayMs`, or at once when the signal fires. Never rejects. */
export function pause(delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted === true) {
      resolve();
      return;
    }
    const timer = setTimeout(done, delayMs);
    function done(): void {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    }
    signal?.addEventListener("abort", done, { once: true });
  });
}

/** One coarse timer for many deadlines: ticks only while there is something to watch. */
export class CoarseTimer {
  readonly #tickMs: number;
  readonly #onTick: (nowMs: number) => boolean;
  #timer: NodeJS.Timeout | undefined;

  /** `onTick` answers whether to go on ticking. */
  constructor(tickMs: number, onTick: (nowMs: number) => boolean) {
    this.#tickMs = tickMs;
    this.#onTick = onTick;
  }

  start(): void {
    this.#timer ??= setInterval(() => {
      if (!this.#onTick(performance.now())) this.stop();
    }, this.#tickMs);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

/** Resolves when `done()` first holds, checked on each `poke`; for drains. */
export class Condition {
  readonly #done: () => boolean;
  #waiters: (() => void)[] = [];

  constructor(done: () => boolean) {
    this.#done = done;
  }

  poke(): void {
    if (this.#waiters.length === 0 || !this.#done()) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }

  /** True when it held within `timeoutMs`. */
  async reached(timeoutMs: number): Promise<boolean> {
    if (this.#done()) return true;
    const reached = new Promise<void>((resolve) => this.#waiters.push(resolve));
    return within(reached, timeoutMs, "waiting").then(
      () => true,
      () => false,
    );
  }
}
