import { mkdir, readFile, writeFile } from "node:fs/promises";
import { cpus, totalmem } from "node:os";
import { dirname } from "node:path";

/** One measured value of one round; `raw` is the baseline (or a peer) of the same round. */
export interface Sample {
  readonly ours: number;
  readonly raw: number;
}

/** A figure is a ratio against something that ran in the same round on the same machine. */
export interface Figure {
  /** `completed/s against the raw pipeline`. */
  readonly name: string;
  readonly unit: string;
  /** The ratio ours/raw that is the goal; a count has no baseline and its goal is a number. */
  readonly goal: { readonly atLeast: number } | { readonly atMost: number };
  readonly rounds: readonly Sample[];
}

export interface FigureResult extends Figure {
  /** Median over the rounds of ours/raw, and its lowest and highest. */
  readonly ratio: { readonly median: number; readonly lowest: number; readonly highest: number };
  readonly reached: boolean;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** `share` from 0 to 1; nearest rank. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = Float64Array.from(values).sort();
  if (sorted.length === 0) return Number.NaN;
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))]!;
}

export function resultOf(figure: Figure): FigureResult {
  const ratios = figure.rounds.map(({ ours, raw }) => ours / raw);
  const ratio = { median: median(ratios), lowest: Math.min(...ratios), highest: Math.max(...ratios) };
  const reached =
    "atLeast" in figure.goal ? ratio.median >= figure.goal.atLeast : ratio.median <= figure.goal.atMost;
  return { ...figure, ratio, reached };
}

export interface Report {
  readonly benchmark: string;
  readonly machine: { cpu: string; cores: number; memoryMiB: number; node: string; kernelSteal: number };
  readonly versions: Readonly<Record<string, string>>;
  readonly figures: readonly FigureResult[];
  /** What else was seen: rates, percentiles, sizes. */
  readonly observed: Readonly<Record<string, unknown>>;
}

/** Share of processor time that the machine's host took since it started, 0 to 1. */
export async function stealShare(): Promise<number> {
  const first = (await readFile("/proc/stat", "utf8")).split("\n")[0] ?? "";
  const ticks = first.trim().split(/\s+/).slice(1).map(Number);
  return (ticks[7] ?? 0) / ticks.reduce((sum, value) => sum + value, 0);
}

const shown = (value: number): string =>
  Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(2);

function lineOf({ name, unit, goal, rounds, ratio, reached }: FigureResult): string {
  const wanted = "atLeast" in goal ? `≥ ${goal.atLeast}` : `≤ ${goal.atMost}`;
  const ours = shown(median(rounds.map((round) => round.ours)));
  const raw = shown(median(rounds.map((round) => round.raw)));
  const spread = `${shown(ratio.lowest)}–${shown(ratio.highest)}, ${rounds.length} rounds`;
  const verdict = reached ? "reached" : "MISSED ";
  // A count has no baseline.
  if (rounds.every((round) => round.raw === 1))
    return `${verdict}  ${name}: ${ours} ${unit} (${spread}), goal ${wanted}`;
  return `${verdict}  ${name}: ours ${ours} ${unit}, baseline ${raw} ${unit}, ratio ${shown(ratio.median)} (${spread}), goal ${wanted}`;
}

/** Prints the report for people and writes it as JSON to `path`. */
export async function tell(
  o: {
    benchmark: string;
    figures: readonly Figure[];
    observed?: Record<string, unknown>;
    versions?: Record<string, string>;
  },
  path: string,
): Promise<Report> {
  const report: Report = {
    benchmark: o.benchmark,
    machine: {
      cpu: cpus()[0]?.model ?? "unknown",
      cores: cpus().length,
      memoryMiB: Math.round(totalmem() / 1024 / 1024),
      node: process.version,
      kernelSteal: await stealShare(),
    },
    versions: o.versions ?? {},
    figures: o.figures.map(resultOf),
    observed: o.observed ?? {},
  };
  const { machine } = report;
  const lines = [
    `${report.benchmark}: ${machine.cores} × ${machine.cpu}, ${machine.memoryMiB} MiB, Node ${machine.node}`,
    Object.entries(report.versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(", "),
    ...report.figures.map(lineOf),
  ];
  process.stdout.write(`${lines.filter((line) => line !== "").join("\n")}\n`);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, `${JSON.stringify(report, null, 2)}\n`);
  return report;
}
