import { spawn } from "node:child_process";
import { join } from "node:path";
import { signalGroup } from "../system/child.ts";
import { readJson } from "../system/files.ts";
import { testRunVariable } from "../system/process-table.ts";
import { repositoryRoot } from "../run/folder.ts";
import { openBench } from "./bench.ts";
import type { Bench } from "./bench.ts";
import { ensureThirdPartyClient } from "./third-party-client.ts";
import { allTests, kindOf, kinds, namedTests } from "./select.ts";
import type { Kind } from "./select.ts";
import { add, exitCodeOf, nothing, oneFailure, resultSchema, totalsLine } from "./totals.ts";
import type { Totals } from "./totals.ts";

const usage = `Usage: ./scripts/test [FILE…]

Runs npm run check and every test on throw-away servers, or only the tests in the named files and folders.
AMQP_URL and DATABASE_URL use other servers; MUSTER_MANAGEMENT_URL goes with AMQP_URL.
The last line is "N passed, N failed" or "N passed, N failed, N skipped".
`;

/** Files at once, and the limits of one test and of all tests of a kind. */
const limits: Record<Kind, { jobs: number; testTimeoutMs: number; allTimeoutMs: number }> = {
  unit: { jobs: 2, testTimeoutMs: 20_000, allTimeoutMs: 300_000 },
  int: { jobs: 2, testTimeoutMs: 60_000, allTimeoutMs: 900_000 },
  e2e: { jobs: 2, testTimeoutMs: 120_000, allTimeoutMs: 2_000_000 },
};
const graceMs = 5_000;
const exitBySignal = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
type StopSignal = keyof typeof exitBySignal;

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** Runs a program with our own output; answers its exit code, 128 when a signal or the limit ended it. */
async function runShown(
  args: readonly string[],
  o: { env: NodeJS.ProcessEnv; timeoutMs: number; signal: AbortSignal },
): Promise<number> {
  o.signal.throwIfAborted();
  const child = spawn(process.execPath, args, {
    cwd: repositoryRoot,
    env: o.env,
    detached: true,
    stdio: ["ignore", "inherit", "inherit"],
  });
  let cut: NodeJS.Timeout | undefined;
  const end = (): void => {
    signalGroup(child, "SIGTERM");
    cut ??= setTimeout(() => signalGroup(child, "SIGKILL"), graceMs);
  };
  const timer = setTimeout(() => {
    say(`not finished after ${o.timeoutMs / 1_000} s: ended`);
    end();
  }, o.timeoutMs);
  o.signal.addEventListener("abort", end, { once: true });
  try {
    return await new Promise<number>((resolve, reject) => {
      child.once("error", reject);
      child.once("exit", (code) => resolve(code ?? 128));
    });
  } finally {
    clearTimeout(timer);
    clearTimeout(cut);
    o.signal.removeEventListener("abort", end);
  }
}

async function runCheck(env: NodeJS.ProcessEnv, signal: AbortSignal): Promise<Totals> {
  say("npm run check");
  const code = await runShown(["scripts/check.mjs"], { env, timeoutMs: 600_000, signal });
  signal.throwIfAborted();
  if (code !== 0) say("FAIL   npm run check");
  return code === 0 ? nothing : oneFailure;
}

async function runKind(
  kind: Kind,
  files: readonly string[],
  bench: Bench,
  signal: AbortSignal,
): Promise<Totals> {
  say(`\n${kind}: ${files.length} files`);
  const started = Date.now();
  const resultPath = join(bench.folder, `${kind}.json`);
  const { jobs, testTimeoutMs, allTimeoutMs } = limits[kind];
  const order = {
    root: repositoryRoot,
    files: files.map((file) => join(repositoryRoot, file)),
    jobs: Math.min(jobs, files.length),
    timeoutMs: testTimeoutMs,
    resultPath,
  };
  const program = join(import.meta.dirname, "mocha-run.js");
  const args = ["--enable-source-maps", program, JSON.stringify(order)];
  const code = await runShown(args, { env: bench.env, timeoutMs: allTimeoutMs, signal });
  const result = readJson(resultPath, resultSchema);
  const seconds = ((Date.now() - started) / 1_000).toFixed(0);
  if (result === undefined) {
    if (!signal.aborted) say(`FAIL   the ${kind} tests ended with ${code} before they were done`);
    return oneFailure;
  }
  say(`${kind}: ${totalsLine(result)} in ${seconds} s`);
  return code !== 0 && result.failed === 0 ? add(result, oneFailure) : result;
}

async function runAll(
  selected: readonly string[],
  whole: boolean,
  env: NodeJS.ProcessEnv,
  signal: AbortSignal,
  keep: (found: Totals) => void,
): Promise<void> {
  const ofKind = (kind: Kind): string[] => selected.filter((file) => kindOf(file) === kind);
  const needsServers = selected.some((file) => kindOf(file) !== "unit");
  if (whole) keep(await runCheck(env, signal));
  if (needsServers) await ensureThirdPartyClient(selected, env, say, signal);
  await using bench = await openBench({ env, needsServers, log: say, signal });
  for (const kind of kinds) {
    const files = ofKind(kind);
    if (files.length > 0) keep(await runKind(kind, files, bench, signal));
    signal.throwIfAborted();
  }
}

/** `./scripts/test`: answers the exit code; the last line says how many passed and failed. */
export async function main(args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  if (args.includes("--help") || args.includes("-h")) {
    process.stdout.write(usage);
    return 0;
  }
  const stop = new AbortController();
  let stoppedBy: StopSignal | undefined;
  for (const name of Object.keys(exitBySignal) as StopSignal[]) {
    process.on(name, () => {
      if (stoppedBy === undefined) say("stopping");
      stoppedBy ??= name;
      stop.abort(new Error(`stopped by ${name}`));
    });
  }
  let totals = nothing;
  try {
    const selected =
      args.length > 0 ? namedTests(repositoryRoot, process.cwd(), args) : allTests(repositoryRoot);
    const marked = { ...env, [testRunVariable]: `${process.pid}-${Date.now()}` };
    await runAll(selected, args.length === 0, marked, stop.signal, (found) => (totals = add(totals, found)));
  } catch (error) {
    if (stoppedBy === undefined) {
      say(`FAIL   ${error instanceof Error ? error.message : String(error)}`);
      totals = add(totals, oneFailure);
    }
  }
  say("");
  say(totalsLine(totals));
  return stoppedBy === undefined ? exitCodeOf(totals) : exitBySignal[stoppedBy];
}
