import { writeFileSync } from "node:fs";
import { relative } from "node:path";
import Mocha from "mocha";
import { z } from "zod";
import type { Totals } from "./totals.ts";

// One run of the test framework in a process of its own: `node mocha-run.js '{"files": […], …}'`.
const orderSchema = z.object({
  root: z.string(),
  files: z.array(z.string()).min(1),
  jobs: z.number().int().min(1),
  timeoutMs: z.number().int().min(1),
  resultPath: z.string(),
});

const slowMs = 5_000;

interface Finished {
  fullTitle(): string;
  readonly file?: string | undefined;
  readonly duration?: number | undefined;
}

/** Prints failures where they happen and one line per slow or skipped test; counts everything. */
class Reporter extends Mocha.reporters.Base {
  static resultPath = "";
  static root = "";
  readonly #totals: { -readonly [K in keyof Totals]: Totals[K] } = { passed: 0, failed: 0, skipped: 0 };

  constructor(runner: Mocha.Runner, options: Mocha.MochaOptions) {
    super(runner, options);
    runner.on("pass", (test: Finished) => this.#passed(test));
    runner.on("fail", (test: Finished, error: unknown) => this.#failed(test, error));
    runner.on("pending", (test: Finished) => this.#skipped(test));
    runner.once("end", () => writeFileSync(Reporter.resultPath, JSON.stringify(this.#totals)));
  }

  #passed(test: Finished): void {
    this.#totals.passed += 1;
    const duration = test.duration ?? 0;
    if (duration >= slowMs) print(`  slow   ${(duration / 1_000).toFixed(1)} s  ${test.fullTitle()}`);
  }

  #skipped(test: Finished): void {
    this.#totals.skipped += 1;
    print(`  skip   ${test.fullTitle()}`);
  }

  #failed(test: Finished, error: unknown): void {
    this.#totals.failed += 1;
    print(`\n  FAIL   ${test.fullTitle()}`);
    if (test.file !== undefined) print(`         ${relative(Reporter.root, test.file)}`);
    print(`${indented(textOf(error))}\n`);
  }
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function indented(text: string): string {
  return text
    .split("\n")
    .map((line) => `         ${line}`)
    .join("\n");
}

function differenceOf(error: object): string {
  if (!("expected" in error && "actual" in error)) return "";
  const text = (value: unknown): string => {
    try {
      return (JSON.stringify(value, null, 2) ?? String(value)).slice(0, 4_000);
    } catch {
      return String(value);
    }
  };
  return `\nexpected ${text(error.expected)}\nactual   ${text(error.actual)}`;
}

function textOf(error: unknown): string {
  if (typeof error !== "object" || error === null) return String(error);
  const stack = "stack" in error && typeof error.stack === "string" ? error.stack : "";
  const message = "message" in error && typeof error.message === "string" ? error.message : "";
  const cause = "cause" in error && error.cause !== undefined ? `\ncaused by ${textOf(error.cause)}` : "";
  return `${stack.includes(message) ? stack : `${message}\n${stack}`}${differenceOf(error)}${cause}`;
}

const order = orderSchema.parse(JSON.parse(process.argv[2] ?? "{}"));
Reporter.resultPath = order.resultPath;
Reporter.root = order.root;
const mocha = new Mocha({
  timeout: order.timeoutMs,
  forbidOnly: true,
  reporter: Reporter,
  ...(order.jobs > 1 ? { parallel: true, jobs: order.jobs } : {}),
});
for (const file of order.files) mocha.addFile(file);
if (order.jobs === 1) await mocha.loadFilesAsync();
// A handle that a test left open must not keep the run from ending.
mocha.run((failures) => process.exit(failures > 0 ? 1 : 0));
