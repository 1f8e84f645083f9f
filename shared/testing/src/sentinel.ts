import { randomUUID } from "node:crypto";
import { eventually } from "./eventually.ts";

/**
 * Proves that nothing else came: sends a message of a new id the same way, waits until it has been seen, and
 * answers what was seen before it. Holds wherever order is kept.
 */
export async function seenBeforeSentinel(
  send: (id: string) => Promise<unknown>,
  seen: () => readonly string[],
  timeoutMs?: number,
): Promise<string[]> {
  const id = randomUUID();
  await send(id);
  await eventually(() => seen().includes(id), timeoutMs);
  return seen().slice(0, seen().indexOf(id));
}
