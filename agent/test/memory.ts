import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

/** A folder on a file system in memory, to be removed at the end. */
export function memoryFolder(): { path: string; remove(): void } {
  const path = mkdtempSync("/dev/shm/muster-test-");
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** Every file below a folder. */
export function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}
