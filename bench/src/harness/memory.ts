import { readFile } from "node:fs/promises";

/** Of one process, in MiB: now, and the most since it started. Linux. */
export async function residentMiB(pid: number): Promise<{ now: number; peak: number }> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const kib = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status)?.[1]);
  return { now: kib("VmRSS") / 1024, peak: kib("VmHWM") / 1024 };
}

export interface MemoryWatch {
  /** The most that was seen since the last call, by name, in MiB. */
  takeMax(): Readonly<Record<string, number>>;
  stop(): void;
}

/** Looks at the processes four times a second. */
export function watchMemory(pids: Readonly<Record<string, number>>): MemoryWatch {
  let max: Record<string, number> = {};
  const look = async (): Promise<void> => {
    for (const [name, pid] of Object.entries(pids)) {
      max[name] = Math.max(max[name] ?? 0, (await residentMiB(pid)).now);
    }
  };
  let failure: unknown;
  const timer = setInterval(() => void look().catch((error: unknown) => (failure ??= error)), 250);
  return {
    takeMax() {
      if (failure !== undefined)
        throw new Error("a process ended while its memory was watched", { cause: failure });
      const seen = max;
      max = {};
      return seen;
    },
    stop: () => clearInterval(timer),
  };
}
