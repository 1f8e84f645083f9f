import { AsyncLocalStorage } from "node:async_hooks";
import { randomFillSync } from "node:crypto";
import { traceparent } from "@muster/contracts/envelope";
import type { WorkContext } from "@muster/contracts/envelope";

const storage = new AsyncLocalStorage<WorkContext>();

/** Everything that `work` starts, awaited or not, sees `context` as its current one. */
export function runWith<T>(context: WorkContext, work: () => T): T {
  return storage.run(context, work);
}

export function currentContext(): WorkContext | undefined {
  return storage.getStore();
}

const zeroTrace = "0".repeat(32);
const zeroSpan = "0".repeat(16);

/** Whether W3C trace context allows it: well formed, neither id all zeros. */
export function isTraceparent(text: string): boolean {
  return (
    traceparent.safeParse(text).success && !text.startsWith(zeroTrace, 3) && !text.startsWith(zeroSpan, 36)
  );
}

/** A new trace, not sampled: no exporter has asked for it. */
export function newTraceparent(): string {
  return `00-${nonZeroHex(16)}-${nonZeroHex(8)}-00`;
}

/** A new span of the parent's trace; a parent that is missing or malformed starts a new trace. */
export function childTraceparent(parent: string | undefined): string {
  if (parent === undefined || !isTraceparent(parent)) return newTraceparent();
  return `${parent.slice(0, 36)}${nonZeroHex(8)}${parent.slice(52)}`;
}

export function traceIdOf(text: string): string {
  return text.slice(3, 35);
}

/** Random bytes are fetched many at a time: asking for a few costs as much. */
const pool = Buffer.alloc(4_096);
let used = pool.length;

function nonZeroHex(bytes: number): string {
  if (used + bytes > pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  const made = pool.toString("hex", used, used + bytes);
  used += bytes;
  return /[1-9a-f]/.test(made) ? made : `${"0".repeat(bytes * 2 - 1)}1`;
}
