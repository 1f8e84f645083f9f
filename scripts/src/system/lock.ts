import { linkSync, renameSync, rmSync } from "node:fs";
import { z } from "zod";
import { readJson, writeJson } from "./files.ts";
import { identityOf, isAlive } from "./process-table.ts";
import type { ProcessIdentity } from "./process-table.ts";

const identitySchema = z.object({ pid: z.number().int().positive(), started: z.string() });

export interface Lock {
  release(): void;
}

/** Who holds the lock now; undefined when nobody alive does. */
export function lockHolder(path: string): ProcessIdentity | undefined {
  const holder = readJson(path, identitySchema);
  return holder !== undefined && isAlive(holder) ? holder : undefined;
}

function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EEXIST") return false;
    throw error;
  }
}

/** Moves a dead holder's lock away. What was moved is looked at again: a live lock made meanwhile is put back. */
function removeStale(path: string): void {
  const aside = `${path}.${process.pid}.stale`;
  try {
    renameSync(path, aside);
  } catch {
    return;
  }
  if (lockHolder(aside) !== undefined) tryLink(aside, path);
  rmSync(aside, { force: true });
}

/** Takes the lock for this process, or answers who holds it. A lock whose holder died is taken over. */
export function takeLock(path: string): { lock: Lock } | { holder: ProcessIdentity } {
  const mine = identityOf(process.pid);
  if (mine === undefined)
    throw new Error("this platform has no /proc; Muster's servers are run by hand there");
  const candidate = `${path}.${process.pid}.new`;
  writeJson(candidate, mine);
  try {
    for (;;) {
      if (tryLink(candidate, path)) break;
      const holder = lockHolder(path);
      if (holder !== undefined) return { holder };
      removeStale(path);
    }
  } finally {
    rmSync(candidate, { force: true });
  }
  const release = (): void => {
    if (lockHolder(path)?.pid === process.pid) rmSync(path, { force: true });
  };
  return { lock: { release } };
}
