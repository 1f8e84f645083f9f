/** Why a call was ended before it answered. */
export type CallEnd = "timeout" | "given_up";

export class CallEnded extends Error {
  override readonly name = "CallEnded";
  readonly end: CallEnd;

  constructor(end: CallEnd) {
    super(end === "timeout" ? "it did not answer in time" : "whoever asked gave up");
    this.end = end;
  }
}

/** One call's time: its signal ends when the time is over or the caller gives up, with a CallEnded as its reason. */
export class CallLimit {
  readonly #ending = new AbortController();
  readonly #caller: AbortSignal;
  readonly #timer: NodeJS.Timeout;
  #ended: CallEnd | undefined;
  readonly #giveUp = () => this.#end("given_up");

  constructor(caller: AbortSignal, timeoutMs: number) {
    this.#caller = caller;
    this.#timer = setTimeout(() => this.#end("timeout"), timeoutMs);
    if (caller.aborted) this.#giveUp();
    else caller.addEventListener("abort", this.#giveUp, { once: true });
  }

  get signal(): AbortSignal {
    return this.#ending.signal;
  }

  get ended(): CallEnd | undefined {
    return this.#ended;
  }

  /** What the work answers; rejects as soon as the time is over, whether the work heeds its signal or not. */
  async within<T>(work: Promise<T>): Promise<T> {
    work.catch(() => undefined);
    this.signal.throwIfAborted();
    let stop: (() => void) | undefined;
    const stopped = new Promise<never>((_, reject) => {
      stop = () => reject(this.signal.reason as CallEnded);
      this.signal.addEventListener("abort", stop, { once: true });
    });
    try {
      return await Promise.race([work, stopped]);
    } finally {
      if (stop !== undefined) this.signal.removeEventListener("abort", stop);
    }
  }

  /** The call is over. */
  release(): void {
    clearTimeout(this.#timer);
    this.#caller.removeEventListener("abort", this.#giveUp);
  }

  #end(end: CallEnd): void {
    this.#ended ??= end;
    this.#ending.abort(new CallEnded(end));
  }
}
