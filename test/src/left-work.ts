import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

/** Kills commands that outlive their stopped agents, as they are meant to; a test leaves nothing behind. */
export async function endLeftWork(homes: readonly string[]): Promise<void> {
  const runs = await Promise.all(homes.map((home) => readdir(join(home, "runs")).catch(() => [])));
  const commandIds = new Set(runs.flat().map((run) => run.split(".")[0]));
  const processes = (await readdir("/proc")).filter((name) => /^[0-9]+$/.test(name));
  for (const pid of processes) {
    const environment = await readFile(`/proc/${pid}/environ`, "utf8").catch(() => "");
    const command = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    const marked = /(?:^|\0)MUSTER_COMMAND_ID=([^\0]+)/.exec(environment)?.[1];
    const supervises = homes.some((home) => command.includes(join(home, "runs")));
    if (!supervises && (marked === undefined || !commandIds.has(marked))) continue;
    try {
      process.kill(Number(pid), "SIGKILL");
    } catch {
      // It ended by itself meanwhile.
    }
  }
}
