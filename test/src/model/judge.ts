import { faultsOfPath, type LifeTable } from "./life-table.ts";
import { endsOf, type Order } from "./orders.ts";
import type { CommandFacts, JournalAttempt, RealStart } from "./facts.ts";

/** What was asked for, and what came back of it. */
export interface Asked {
  readonly key: string;
  readonly order: Order;
  /** Ids that answers have named: exactly one for what was accepted. */
  readonly ids: ReadonlySet<string>;
  readonly cancelled: boolean;
  /** Refused for good by every answer that came; undefined while one may have been accepted. */
  readonly refused: string | undefined;
}

export interface Evidence {
  readonly commands: readonly CommandFacts[];
  readonly journal: readonly JournalAttempt[];
  readonly starts: readonly RealStart[];
}

const settledInJournal = new Set(["acked", "forgotten", "orphaned"]);

/** Everything that is wrong with what became of one request, in words. Pure. */
export function judge(
  asked: Asked,
  evidence: Evidence,
  table: LifeTable,
  alsoEnds: readonly string[],
): string[] {
  const named = (words: string): string => `${asked.key} ${[...asked.ids].join()}: ${words}`;
  if (asked.ids.size > 1) return [named("was accepted as more than one command")];
  const [command, second] = evidence.commands;
  if (second !== undefined) return [named("has more than one command on record")];
  if (asked.refused !== undefined) {
    return command === undefined ? [] : [named(`was refused (${asked.refused}) and is on record`)];
  }
  if (command === undefined) return [named("was accepted and is lost")];
  const faults = [
    ...(asked.ids.size === 1 && !asked.ids.has(command.id) ? [`is on record as ${command.id}`] : []),
    ...faultsOfPath(table, command.steps),
    ...faultsOfState(command),
    ...faultsOfStarts(command, evidence),
    ...faultsOfEnd(asked, command, evidence, alsoEnds),
  ];
  return faults.map((fault) => named(`${fault} [${command.state}:${command.reason}]`));
}

function faultsOfState(command: CommandFacts): string[] {
  const last = command.steps.at(-1);
  if (last === undefined) return [];
  const faults: string[] = [];
  if (last.to !== command.state) faults.push(`is ${command.state} but its history ends in ${last.to}`);
  if (last.attempt !== command.attempt) {
    faults.push(`is at attempt ${command.attempt} but its history at ${last.attempt}`);
  }
  return faults;
}

/** A start is never followed by another, in whatever attempt and by whichever agent. */
function faultsOfStarts(command: CommandFacts, { starts, journal }: Evidence): string[] {
  const faults: string[] = [];
  if (starts.length > 1) {
    faults.push(`was started ${starts.length} times: attempts ${starts.map((one) => one.attempt).join()}`);
  }
  for (const one of starts) {
    const known = journal.filter((row) => row.attempt === one.attempt);
    if (known.every((row) => row.starts === 0)) {
      faults.push(`attempt ${one.attempt} was started and no journal says so`);
    }
    const claims = command.steps.filter(
      (step) => step.attempt === one.attempt && step.to === "running" && step.from !== "running",
    );
    if (claims.length !== 1) {
      faults.push(`attempt ${one.attempt} was started under ${claims.length} claims`);
    }
  }
  for (const row of journal) {
    if (row.starts > 1) faults.push(`attempt ${row.attempt} has ${row.starts} starts in a journal`);
    if (!settledInJournal.has(row.state))
      faults.push(`attempt ${row.attempt} is still ${row.state} in a journal`);
    else if (row.output_done !== 1)
      faults.push(`attempt ${row.attempt} still has output to send in a journal`);
  }
  return faults;
}

function faultsOfEnd(
  asked: Asked,
  command: CommandFacts,
  { starts }: Evidence,
  alsoEnds: readonly string[],
): string[] {
  if (command.phase !== "ended") return ["has not ended"];
  const faults: string[] = [];
  const end = `${command.state}:${command.reason}`;
  const ends = endsOf(asked.order, asked.cancelled);
  if (!ends.has(end) && !alsoEnds.includes(end))
    faults.push(`ended as ${end}, not as ${[...ends].join(" or ")}`);
  if (command.effect === "none" && starts.length > 0)
    faults.push("says that it had no effect and was started");
  const ranToEnd = end === "succeeded:completed" || end === "failed:exit_nonzero";
  if (!ranToEnd) return faults;
  if (starts.length === 0) faults.push("ran to its end and was never started");
  const effect = command.state === "succeeded" ? "applied" : "unknown";
  if (command.effect !== effect) faults.push(`has effect ${command.effect}, not ${effect}`);
  const exitCode = asked.order.exitCode ?? 0;
  if (command.exit_code !== exitCode)
    faults.push(`has exit code ${String(command.exit_code)}, not ${exitCode}`);
  return faults;
}
