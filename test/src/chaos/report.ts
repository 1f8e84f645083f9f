import type { Planned } from "./schedule.ts";
import type { Counts } from "./seen.ts";

/** A planned fault and what became of it. */
export interface Outcome extends Planned {
  readonly detail?: string;
  /** Why it could not be injected or healed. */
  readonly error?: string;
}

export interface ChaosReport {
  readonly seed: number;
  readonly minutes: number;
  readonly outcomes: readonly Outcome[];
  readonly seen: Readonly<Record<string, Counts>>;
  /** Each in words; none is the verdict that everything held. */
  readonly violations: readonly string[];
  /** Where logs and journals are; only after a violation. */
  readonly folder?: string;
}

/** The whole report as Markdown, which is also what is printed. */
export function reportText(report: ChaosReport): string {
  const { seed, minutes, outcomes, violations } = report;
  const kinds = new Set(outcomes.map((one) => one.fault)).size;
  const verdict =
    violations.length === 0
      ? "Everything held: nothing accepted was lost, nothing was started twice, and every state, history, output and message is consistent."
      : `${violations.length} violations:`;
  return [
    "# Chaos",
    "",
    `\`npm run chaos -- --minutes ${minutes} --seed ${seed}\`: ${outcomes.length} faults of ${kinds} kinds under steady load, three agents, six VMs.`,
    "",
    "## Verdict",
    "",
    verdict,
    ...(violations.length === 0 ? [] : ["", ...violations.map((one) => `- ${one}`)]),
    "",
    "## What was seen",
    "",
    ...table(
      ["what", "count"],
      Object.entries(report.seen).flatMap(([group, counts]) =>
        Object.entries(counts).map(([what, count]) => [`${group}: ${what}`, String(count)]),
      ),
    ),
    "",
    "## What was injected",
    "",
    ...table(
      ["at", "fault", "target", "for", "detail"],
      outcomes.map((one) => [
        `${(one.atMs / 1_000).toFixed(1)} s`,
        one.fault,
        one.target,
        `${(one.durationMs / 1_000).toFixed(1)} s`,
        one.error === undefined ? (one.detail ?? "") : `not done: ${one.error}`,
      ]),
    ),
    "",
  ].join("\n");
}

function table(heads: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = heads.map((head, column) =>
    Math.max(head.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => cell.replaceAll("|", "/").padEnd(widths[column] ?? 0)).join(" | ")} |`;
  return [line(heads), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)];
}
