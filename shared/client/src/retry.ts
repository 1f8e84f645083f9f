import { MusterError } from "@muster/contracts/errors";

export interface RetryOptions {
  readonly attemptsMax: number;
  readonly random: () => number;
  readonly wait: (ms: number, signal: AbortSignal | undefined) => Promise<void>;
}

const backoffBaseMs = 200;
const backoffMaxMs = 10_000;
/** However long a server asks us to wait, we look again after this. */
const retryAfterMaxMs = 60_000;

/** Full jitter over an exponential, on top of what the server asked for. */
export function delayMs(attempt: number, retryAfterMs: number | undefined, random: () => number): number {
  const jitter = random() * Math.min(backoffMaxMs, backoffBaseMs * 2 ** (attempt - 1));
  return Math.round(Math.min(retryAfterMs ?? 0, retryAfterMaxMs) + jitter);
}

/** Runs `work` until it succeeds, fails for good, or `attemptsMax` is used up. */
export async function retrying<T>(
  o: RetryOptions & { repeatable: boolean; signal: AbortSignal | undefined },
  work: () => Promise<T>,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      const again = o.repeatable && attempt < o.attemptsMax && mayPass(error);
      if (!again || o.signal?.aborted === true) throw error;
      await o.wait(delayMs(attempt, error.retryAfterMs, o.random), o.signal);
    }
  }
}

function mayPass(error: unknown): error is MusterError {
  return error instanceof MusterError && error.retriable;
}

export function wait(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(abortedBy(signal));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal?.aborted === true) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}

export function abortedBy(signal: AbortSignal | undefined): Error {
  return signal?.reason instanceof Error ? signal.reason : new Error("aborted");
}
