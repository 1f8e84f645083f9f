import { commandStates } from "@muster/contracts/commands";
import { isOver, machine, machineEvents, refusals } from "./machine.ts";
import type { Cell, LifeState } from "./machine.ts";

const lifeStates: readonly LifeState[] = ["requested", ...commandStates];

/** The state machine as a page: a mermaid diagram of what moves, and the table of every pair. */
export function machineMarkdown(): string {
  return [
    "```mermaid",
    "stateDiagram-v2",
    ...diagramLines(),
    "```",
    "",
    ...tableLines(),
    "",
    "Refusals:",
    "",
    ...Object.entries(refusals).map(([name, meaning]) => `- \`${name}\`: ${meaning}`),
    "",
  ].join("\n");
}

function diagramLines(): string[] {
  const labels = new Map<string, string[]>();
  for (const event of machineEvents) {
    for (const from of lifeStates) {
      const cell = machine[event][from];
      if ("refuse" in cell) continue;
      const arrow = `${from === "requested" ? "[*]" : from} --> ${cell.to}`;
      labels.set(arrow, [...(labels.get(arrow) ?? []), event]);
    }
  }
  const arrows = [...labels].map(([arrow, events]) => `    ${arrow}: ${events.join(", ")}`);
  const ends = commandStates.filter(isOver).map((state) => `    ${state} --> [*]`);
  return [...arrows, ...ends];
}

function tableLines(): string[] {
  const head = `| event | ${lifeStates.join(" | ")} |`;
  const rule = `|---|${lifeStates.map(() => "---|").join("")}`;
  const rows = machineEvents.map(
    (event) => `| \`${event}\` | ${lifeStates.map((state) => cellText(machine[event][state])).join(" | ")} |`,
  );
  return [head, rule, ...rows];
}

function cellText(cell: Cell): string {
  if ("refuse" in cell) return `_${cell.refuse}_`;
  const notes = [
    cell.attempt === "next" ? "attempt + 1" : "",
    cell.desired === "cancel" ? "desired = cancel" : "",
    cell.guard === "provisional" ? "only if provisional" : "",
  ].filter((note) => note !== "");
  return `**${cell.to}**${notes.length === 0 ? "" : ` (${notes.join(", ")})`}`;
}
