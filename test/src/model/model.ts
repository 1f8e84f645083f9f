import { createHash } from "node:crypto";
import { join } from "node:path";
import { createClient, type Client } from "@muster/client/client";
import { uuidv7 } from "@muster/contracts/ids";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import type { System } from "../system.ts";
import { asAdmin, groupBy, readCommands, readJournal, readStarts, type CommandFacts } from "./facts.ts";
import { judge, type Asked } from "./judge.ts";
import { readLifeTable } from "./life-table.ts";
import { faultsOfMessages, type DeadLetter } from "./messages.ts";
import { bodyOf, outputOf, type Order, type RequestBody } from "./orders.ts";
import { cancel, submit } from "./submit.ts";

export interface ModelOptions {
  /** Ends that any order may have beside its own, as `state:reason`: what the faults of this run explain. */
  readonly alsoEnds?: readonly string[];
  /** Messages that the faults of this run may rightly kill; none by default. */
  readonly mayDie?: (letter: DeadLetter) => boolean;
  /** How long one `accept` goes on without an answer before it stays `maybe`. */
  readonly acceptMs?: number;
  /** Sends every request, for whoever wants to count them. */
  readonly fetch?: typeof fetch;
}

export interface CheckOptions {
  /** How long what was accepted may take to end and messages to be taken; 60 s by default. */
  readonly withinMs?: number;
  /** Also queues (the broker's numbers are 6 s old), audits and dead letters; true by default. */
  readonly messages?: boolean;
}

/** One request, from its first sending on. */
export interface Accepted extends Asked {
  /** Undefined while no answer has come. */
  readonly id: string | undefined;
}

interface Entry extends Accepted {
  ids: Set<string>;
  cancelled: boolean;
  refused: string | undefined;
  readonly body: RequestBody;
  outputRead: boolean;
  /** A request of it had no answer. */
  doubted: boolean;
}

/** Knows what was asked for and answered, and holds the system to it. */
export interface Model {
  /** Where the work notes its starts, one line each. */
  readonly startsFile: string;
  readonly entries: readonly Accepted[];
  /** Sends the order under a key of its own until an answer comes; one without an answer is settled by `check`. */
  accept(order: Order): Promise<Accepted>;
  /** Sends the very same request again: it must be answered with the same command. */
  repeat(entry: Accepted): Promise<void>;
  /** Asks to cancel it; what ends first is right. */
  cancel(entry: Accepted): Promise<void>;
  /** Resolves when the command really began: its line is in the file of starts. */
  started(entry: Accepted, withinMs?: number): Promise<void>;
  /**
   * Waits until everything has ended and answers each violation in words; nothing means that no accepted command is
   * lost, none was started twice, and states, history, effects, output and messages are consistent.
   */
  check(options?: CheckOptions): Promise<string[]>;
}

const within = 60_000;

export function openModel(system: System, options: ModelOptions = {}): Model {
  const id = uuidv7().slice(-8);
  const startsFile = join(system.folder, `starts-${id}`);
  const table = readLifeTable();
  const client = createClient({
    ...{ baseUrl: system.gatewayUrl, token: system.apiKey },
    ...{ attemptsMax: 1, timeoutMs: 10_000 },
    ...(options.fetch === undefined ? {} : { fetch: options.fetch }),
  });
  const entries: Entry[] = [];

  async function send(entry: Entry): Promise<void> {
    const answer = await submit(client, entry.body, entry.key, options.acceptMs ?? within);
    if (answer.kind === "accepted") entry.ids.add(answer.id);
    // A refusal decides only when no earlier request may have been accepted.
    if (answer.kind === "refused" && !entry.doubted && entry.ids.size === 0) entry.refused = answer.code;
    entry.doubted ||= answer.kind === "maybe";
  }
  const entryOf = (accepted: Accepted): Entry => {
    const entry = entries.find((one) => one.key === accepted.key);
    if (entry === undefined) throw new Error(`${accepted.key} is not of this model`);
    return entry;
  };
  return {
    startsFile,
    entries,
    async accept(order) {
      const key = `m${id}-${entries.length}`;
      const entry: Entry = {
        ...{ key, order, ids: new Set<string>(), cancelled: false, refused: undefined },
        ...{ body: bodyOf(order, key, startsFile), outputRead: false, doubted: false },
        get id() {
          return [...this.ids][0];
        },
      };
      entries.push(entry);
      await send(entry);
      return entry;
    },
    repeat: async (accepted) => await send(entryOf(accepted)),
    async cancel(accepted) {
      const entry = entryOf(accepted);
      const [commandId] = entry.ids;
      if (commandId === undefined) throw new Error(`${entry.key} was not accepted`);
      entry.cancelled = true;
      await cancel(client, commandId, within);
    },
    async started({ key }, withinMs = 120_000) {
      await eventuallyHolds(async () => {
        const starts = await readStarts(startsFile);
        if (!starts.some((start) => start.key === key)) throw new Error(`${key} has not begun`);
      }, withinMs);
    },
    async check({ withinMs = within, messages = true } = {}) {
      for (const entry of entries) if (entry.ids.size === 0 && entry.refused === undefined) await send(entry);
      const unanswered = entries.filter((entry) => entry.ids.size === 0 && entry.refused === undefined);
      const judged = await judgeAll({ ...{ system, entries, startsFile, id, table, withinMs }, ...options });
      return [
        ...unanswered.map((entry) => `${entry.key}: no request was answered within ${withinMs} ms`),
        ...judged.faults,
        ...(await faultsOfOutput(client, entries, judged.commands)),
        ...(await faultsOfMessages(system, {
          ...{ withinMs, queues: messages, mayDie: options.mayDie ?? (() => false) },
        })),
      ];
    },
  };
}

interface Judging extends ModelOptions {
  readonly system: System;
  readonly entries: readonly Entry[];
  readonly startsFile: string;
  readonly id: string;
  readonly table: ReturnType<typeof readLifeTable>;
  readonly withinMs: number;
}

/** Judges until nothing is wrong or the time is over: journals and history settle a moment after the state. */
async function judgeAll(o: Judging): Promise<{ faults: string[]; commands: Map<string, CommandFacts> }> {
  let found: { faults: string[]; commands: Map<string, CommandFacts> } = { faults: [], commands: new Map() };
  const look = async (): Promise<boolean> => {
    found = await judgeOnce(o).catch((error: unknown) => ({
      faults: [`the records could not be read: ${String(error)}`],
      commands: new Map<string, CommandFacts>(),
    }));
    return found.faults.length === 0;
  };
  await eventually(look, o.withinMs).catch(() => undefined);
  return found;
}

async function judgeOnce(o: Judging): Promise<{ faults: string[]; commands: Map<string, CommandFacts> }> {
  const commands = await asAdmin(o.system.adminDatabaseUrl, (admin) => readCommands(admin, `m${o.id}-`));
  const journals = [...new Set(o.system.agents.map((agent) => agent.home))].map(readJournal);
  const attempts = groupBy(
    journals.flatMap((journal) => journal.attempts),
    (row) => row.command_id,
  );
  const starts = groupBy(await readStarts(o.startsFile), (start) => start.key);
  const ofKey = groupBy(commands, (command) => command.key);
  const known = new Set(o.entries.map((entry) => entry.key));
  const faults = commands
    .filter(({ key }) => !known.has(key))
    .map(({ key, id }) => `${key} ${id}: was never asked for`);
  if (journals.some((journal) => journal.doubleStarts > 0))
    faults.push("an agent's journal counts double starts");
  for (const entry of o.entries) {
    const own = ofKey.get(entry.key) ?? [];
    const evidence = {
      commands: own,
      journal: own.flatMap((command) => attempts.get(command.id) ?? []),
      starts: starts.get(entry.key) ?? [],
    };
    faults.push(...judge(entry, evidence, o.table, o.alsoEnds ?? []));
  }
  return { faults, commands: new Map(commands.map((command) => [command.key, command])) };
}

const sha256Of = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");

/** Outputs that are read at once. */
const readersMax = 8;

/** Output that is new since the last check, byte by byte; of what was stopped, what there is of it. */
async function faultsOfOutput(
  client: Client,
  entries: readonly Entry[],
  commands: ReadonlyMap<string, CommandFacts>,
): Promise<string[]> {
  const faults: string[] = [];
  const left = entries.values();
  const work = async (): Promise<void> => {
    for (const entry of left) {
      const command = commands.get(entry.key);
      if (command?.phase !== "ended" || entry.outputRead) continue;
      faults.push(...(await faultsOfOne(client, entry, command)));
    }
  };
  await Promise.all(Array.from({ length: readersMax }, work));
  return faults;
}

async function faultsOfOne(client: Client, entry: Entry, command: CommandFacts): Promise<string[]> {
  const faults: string[] = [];
  const end = `${command.state}:${command.reason}`;
  const whole = end === "succeeded:completed" || end === "failed:exit_nonzero";
  const output = await readAll(client, command.id).catch((error: unknown) => String(error));
  if (typeof output === "string") {
    return [`${entry.key} ${command.id}: its output cannot be read: ${output}`];
  }
  for (const stream of ["stdout", "stderr"] as const) {
    const expected = outputOf(entry.key, entry.order[`${stream}Bytes`]);
    const got = output[stream];
    const announced = output.totals?.[stream];
    // What a full disk did not keep is announced, with the checksum of all of it.
    const cut = announced !== undefined && announced.bytes_kept < announced.bytes_total;
    const right = cut
      ? got.length <= announced.bytes_kept && (!whole || announced.sha256 === sha256Of(expected))
      : got.equals(whole ? expected : expected.subarray(0, got.length));
    if (!right)
      faults.push(`${entry.key} ${command.id}: ${stream} has ${got.length} of ${expected.length} bytes`);
  }
  entry.outputRead = true;
  return faults;
}

interface Output {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly totals: NonNullable<Awaited<ReturnType<Client["readOutput"]>>["data"]["totals"]> | null;
}

/** The whole output of an ended command; a page that is not answered is asked for again. */
async function readAll(client: Client, id: string): Promise<Output> {
  const parts: Record<"stdout" | "stderr", Buffer[]> = { stdout: [], stderr: [] };
  let cursor: string | undefined;
  let totals: Output["totals"] = null;
  await eventuallyHolds(async () => {
    for (let more = true; more;) {
      const { data } = await client.readOutput({
        params: { id },
        query: cursor === undefined ? {} : { cursor },
      });
      for (const chunk of data.chunks) parts[chunk.stream].push(Buffer.from(chunk.data_base64, "base64"));
      cursor = data.cursor;
      totals = data.totals;
      more = data.chunks.length > 0;
      if (!more && !data.complete) throw new Error("it is not complete");
    }
  }, 30_000);
  return { stdout: Buffer.concat(parts.stdout), stderr: Buffer.concat(parts.stderr), totals };
}
