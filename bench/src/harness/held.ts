import { readFile } from "node:fs/promises";
import { eventually } from "@muster/testing/eventually";
import { z } from "zod";

const heldShape = z.object({
  look: z.number(),
  heapUsed: z.number(),
  /** Of that, what the engine has compiled: it grows for as long as functions become warm. */
  code: z.number(),
  external: z.number(),
  rss: z.number(),
  resources: z.record(z.string(), z.number()),
});
/** What a process holds right after a full garbage collection, in bytes; resources are its open handles by kind. */
export type Held = z.infer<typeof heldShape>;

/** Settings with which a process can be asked for what it holds. `path` is where it writes the answer. */
export const askable = (path: string): Record<string, string> => ({
  NODE_OPTIONS: `--import=${new URL("./memory-hook.js", import.meta.url).href}`,
  MUSTER_BENCH_MEMORY: path,
});

/** Asks one process that was started with `askable(path)`. */
export async function askHeld(path: string, pid: number): Promise<Held> {
  const read = async (): Promise<Held | undefined> => {
    const text = await readFile(`${path}.${pid}`, "utf8").catch(() => undefined);
    return text === undefined ? undefined : heldShape.parse(JSON.parse(text));
  };
  const before = (await read())?.look ?? 0;
  process.kill(pid, "SIGUSR2");
  return eventually(async () => {
    const held = await read();
    return held !== undefined && held.look > before ? held : undefined;
  }, 10_000);
}
