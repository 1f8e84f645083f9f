export interface Closeable {
  close(): Promise<void>;
}

export type Health = { ok: boolean; reason?: string; detail?: unknown };

export interface CloseOutcome {
  readonly name: string;
  readonly outcome: "closed" | "failed" | "stuck";
  readonly tookMs: number;
  readonly error?: unknown;
}

/** What each of the rest gets once the whole time is used up. */
const graceMs = 250;

/** Closes the last first, one at a time, all within `timeoutMs`; what is stuck is named and left behind. */
export async function closeInReverse(
  owned: readonly { readonly name: string; readonly closeable: Closeable }[],
  timeoutMs: number,
): Promise<CloseOutcome[]> {
  const deadline = Date.now() + timeoutMs;
  const outcomes: CloseOutcome[] = [];
  for (const { name, closeable } of owned.toReversed()) {
    outcomes.push(await closeOne(name, closeable, Math.max(deadline - Date.now(), graceMs)));
  }
  return outcomes;
}

async function closeOne(name: string, closeable: Closeable, timeoutMs: number): Promise<CloseOutcome> {
  const start = Date.now();
  let timer: NodeJS.Timeout | undefined;
  const cut = new Promise<"stuck">((resolve) => {
    timer = setTimeout(() => resolve("stuck"), timeoutMs);
  });
  try {
    const closed = Promise.resolve(closeable.close()).then(() => "closed" as const);
    const outcome = await Promise.race([closed, cut]);
    // A close that fails after it was cut must not become an unhandled rejection.
    closed.catch(() => undefined);
    return { name, outcome, tookMs: Date.now() - start };
  } catch (error) {
    return { name, outcome: "failed", tookMs: Date.now() - start, error };
  } finally {
    clearTimeout(timer);
  }
}

/** Makes `close` idempotent: every call gets the one promise of the first. */
export function once(close: () => Promise<void>): () => Promise<void> {
  let closing: Promise<void> | undefined;
  return () => (closing ??= close());
}
