import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { z } from "zod";
import { reportText } from "./report.ts";
import { runChaos } from "./run.ts";

const usage = `Usage: npm run chaos -- [--minutes N] [--seed S] [--only FAULT,…] [--report FILE.md]

Random faults against a whole system of its own, under load. The same seed gives the same faults at the same times.
Exit code 1 when anything accepted was lost, started twice or is in a wrong state; the logs are then kept.
`;

const options = z.object({
  minutes: z.coerce.number().positive().max(1_440).default(2),
  seed: z.coerce.number().int().min(0).max(4_294_967_295).optional(),
  only: z
    .string()
    .transform((text) => text.split(","))
    .optional(),
  report: z.string().optional(),
  help: z.boolean().default(false),
});

async function main(args: string[]): Promise<number> {
  const { values } = parseArgs({
    args,
    options: {
      minutes: { type: "string" },
      seed: { type: "string" },
      only: { type: "string" },
      report: { type: "string" },
      help: { type: "boolean", short: "h" },
    },
  });
  const given = options.parse(values);
  const { minutes, seed = Math.floor(Math.random() * 2 ** 32), report: file, help } = given;
  if (help) {
    process.stdout.write(usage);
    return 0;
  }
  process.stderr.write(`seed ${seed}\n`);
  const stop = new AbortController();
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(name, () => stop.abort());
  const log = (line: string): void => void process.stderr.write(`${line}\n`);
  const only = (fault: { name: string }): boolean => given.only?.includes(fault.name) ?? true;
  const report = await runChaos({ minutes, seed, log, only, signal: stop.signal });
  const text = reportText(report);
  process.stdout.write(`\n${text}\n`);
  if (file !== undefined) await writeFile(file, text);
  if (report.folder !== undefined) process.stderr.write(`logs and journals are kept in ${report.folder}\n`);
  return report.violations.length === 0 ? 0 : 1;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  process.exit(1);
}
