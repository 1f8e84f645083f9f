import { readFileSync } from "node:fs";
import { join } from "node:path";
import { repository } from "../processes.ts";

/** The table that decides every transition, as the project publishes it; `npm run check` holds it to the code. */
export interface LifeTable {
  /** Whether `rule` leads from one state to the other; a rule that is not an event of the table, by any event. */
  allows(rule: string, from: string | null, to: string): boolean;
}

export interface Step {
  readonly from: string | null;
  readonly to: string;
  readonly attempt: number;
  readonly rule: string;
}

const birth = "requested";

export function readLifeTable(): LifeTable {
  const rows = readFileSync(join(repository, "docs/command-states.md"), "utf8")
    .split("\n")
    .filter((line) => line.startsWith("|"))
    .map((line) =>
      line
        .split("|")
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
  const states = rows[0]?.slice(1) ?? [];
  if (states[0] !== birth) throw new Error("docs/command-states.md has no table of states");
  const edges = new Map<string, Set<string>>();
  for (const [event = "", ...cells] of rows.slice(2)) {
    const moves = new Set<string>();
    for (const [index, cell] of cells.entries()) {
      const to = /^\*\*(\w+)\*\*/.exec(cell)?.[1];
      if (to !== undefined) moves.add(`${states[index] ?? ""}>${to}`);
    }
    edges.set(event.replaceAll("`", ""), moves);
  }
  const any = new Set([...edges.values()].flatMap((moves) => [...moves]));
  return {
    allows: (rule, from, to) => (edges.get(rule) ?? any).has(`${from ?? birth}>${to}`),
  };
}

/** What is wrong with a command's recorded history, in words. */
export function faultsOfPath(table: LifeTable, steps: readonly Step[]): string[] {
  if (steps.length === 0) return ["has no history"];
  const faults: string[] = [];
  let before: Step | undefined;
  for (const step of steps) {
    const words = `${step.from ?? "-"}>${step.to} by ${step.rule} (attempt ${step.attempt})`;
    const expected = before === undefined ? null : before.to;
    if (step.from !== expected) faults.push(`has a gap in its history: ${words} follows ${expected ?? "-"}`);
    if (!table.allows(step.rule, step.from, step.to)) faults.push(`made an illegal step: ${words}`);
    const restarts = step.to === "queued" && before !== undefined;
    const attempt = (before?.attempt ?? 1) + (restarts ? 1 : 0);
    if (step.attempt !== attempt) faults.push(`counts its attempts wrongly: ${words}, not ${attempt}`);
    before = step;
  }
  return faults;
}
