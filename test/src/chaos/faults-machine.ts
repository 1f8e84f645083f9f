import { open, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Fault } from "./fault.ts";
import { agentNames, processNames } from "./world.ts";

const hourMs = 3_600_000;
const jumpsMs = [-365 * 24 * hourMs, -hourMs, -90_000, 90_000, hourMs, 365 * 24 * hourMs] as const;

/** Writes until nothing more fits. */
async function fillUp(path: string): Promise<void> {
  const file = await open(path, "w");
  try {
    for (let bytes = 1_048_576; bytes >= 1;) {
      const written = await file.write(Buffer.alloc(bytes)).catch(() => undefined);
      if (written === undefined || written.bytesWritten < bytes) bytes = Math.floor(bytes / 16);
    }
  } finally {
    await file.close();
  }
}

export const machineFaults: readonly Fault[] = [
  {
    name: "disk full",
    targets: agentNames,
    lastsMs: [2_000, 15_000],
    async inject(world, target) {
      if (!world.smallDisks) throw new Error("only root can give an agent a small disk of its own");
      const file = join(world.homeOf(target), "ballast");
      await fillUp(file);
      return { heal: () => rm(file) };
    },
  },
  {
    name: "clock jumped",
    targets: processNames,
    lastsMs: [3_000, 20_000],
    async inject({ shiftClock }, target, roll) {
      const shiftMs = jumpsMs[Math.floor(roll * jumpsMs.length)] ?? hourMs;
      await shiftClock(target, shiftMs);
      return {
        heal: () => shiftClock(target, 0),
        detail: `by ${shiftMs > 0 ? "+" : ""}${Math.round(shiftMs / 1_000)} s`,
      };
    },
  },
];
