import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";

/** Sums up the .cpuprofile files of a folder by package and by function: where the time of each process went. */
const profileSchema = z.object({
  nodes: z.array(
    z.object({
      id: z.number(),
      callFrame: z.object({ functionName: z.string(), url: z.string(), lineNumber: z.number() }),
    }),
  ),
  samples: z.array(z.number()),
  timeDeltas: z.array(z.number()),
});

function packageOf(url: string): string {
  const dependency = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url)?.[1];
  if (dependency !== undefined && !url.includes("/dist/src/")) return dependency;
  const own = /\/((?:shared|services)\/[^/]+|agent|bench)\/dist\//.exec(url)?.[1];
  return own ?? dependency ?? (url.startsWith("node:") ? "node" : url === "" ? "(engine)" : url);
}

const [folder = "."] = process.argv.slice(2);
for (const file of (await readdir(folder)).filter((name) => name.endsWith(".cpuprofile")).sort()) {
  const profile = profileSchema.parse(JSON.parse(await readFile(join(folder, file), "utf8")));
  const nodes = new Map(profile.nodes.map((node) => [node.id, node.callFrame]));
  const byPackage = new Map<string, number>();
  const byFunction = new Map<string, number>();
  let total = 0;
  let idle = 0;
  profile.samples.forEach((id, at) => {
    const frame = nodes.get(id);
    const took = profile.timeDeltas[at] ?? 0;
    if (frame === undefined) return;
    total += took;
    if (frame.functionName === "(idle)") {
      idle += took;
      return;
    }
    const owner = packageOf(frame.url);
    const name = frame.functionName === "" ? "(anonymous)" : frame.functionName;
    const whole = `${owner} ${name}:${frame.lineNumber + 1} ${frame.url.split("/").slice(-2).join("/")}`;
    byPackage.set(owner, (byPackage.get(owner) ?? 0) + took);
    byFunction.set(whole, (byFunction.get(whole) ?? 0) + took);
  });
  const busy = total - idle;
  process.stdout.write(
    `\n${file}: busy ${(busy / 1_000).toFixed(0)} of ${(total / 1_000).toFixed(0)} ms (${((100 * busy) / total).toFixed(0)} %)\n`,
  );
  for (const [kind, table, count] of [
    ["package", byPackage, 16],
    ["function", byFunction, 45],
  ] as const) {
    process.stdout.write(`  by ${kind}, share of busy time\n`);
    const rows = [...table].sort((a, b) => b[1] - a[1]).slice(0, count);
    for (const [name, took] of rows) {
      process.stdout.write(`    ${((100 * took) / busy).toFixed(1).padStart(5)} %  ${name}\n`);
    }
  }
}
