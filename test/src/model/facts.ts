import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { openAdmin, type Admin } from "@muster/database/admin";
import { DatabaseSync } from "@photostructure/sqlite";
import { z } from "zod";
import type { Step } from "./life-table.ts";

/** What the system has on record of a command. */
export interface CommandFacts {
  readonly id: string;
  readonly key: string;
  readonly state: string;
  readonly phase: "waiting" | "running" | "ended";
  readonly reason: string;
  readonly effect: string;
  readonly attempt: number;
  readonly exit_code: number | null;
  readonly steps: readonly Step[];
}

export interface JournalAttempt {
  readonly home: string;
  readonly command_id: string;
  readonly attempt: number;
  readonly state: string;
  readonly starts: number;
  readonly output_done: number;
}

/** One line of the file of starts: a program that really began. */
export interface RealStart {
  readonly key: string;
  readonly commandId: string;
  readonly attempt: number;
}

const journalRows = z.array(
  z.object({
    command_id: z.string(),
    attempt: z.number(),
    state: z.string(),
    starts: z.number(),
    output_done: z.number(),
  }),
);

/** Asks as the administrator; each call on a connection of its own, for the server may have been away. */
export async function asAdmin<T>(url: string, work: (admin: Admin) => Promise<T>): Promise<T> {
  const admin = await openAdmin(url);
  try {
    return await work(admin);
  } finally {
    await admin.close();
  }
}

/** Every command whose idempotency key starts so, with its history. */
export async function readCommands(admin: Admin, keyStart: string): Promise<CommandFacts[]> {
  const rows = await admin.query<Omit<CommandFacts, "steps">>(
    `SELECT id, idempotency_key AS key, state, phase, reason, effect, attempt, exit_code
     FROM vm_ops.commands WHERE starts_with(idempotency_key, $1)`,
    [keyStart],
  );
  const events = await admin.query<Step & { command_id: string }>(
    `SELECT command_id, from_state AS "from", to_state AS "to", attempt, rule
     FROM vm_ops.command_events WHERE command_id = ANY ($1::uuid[]) ORDER BY command_id, id`,
    [rows.map((row) => row.id)],
  );
  const stepsOf = groupBy(events, (event) => event.command_id);
  return rows.map((row) => ({ ...row, steps: stepsOf.get(row.id) ?? [] }));
}

/** What an agent's journal has of its attempts; readable whether or not the agent runs. */
export function readJournal(home: string): { attempts: JournalAttempt[]; doubleStarts: number } {
  const file = join(home, "journal.db");
  if (!existsSync(file)) return { attempts: [], doubleStarts: 0 };
  const database = new DatabaseSync(file, { readOnly: true });
  try {
    database.exec("PRAGMA busy_timeout = 5000");
    const rows = database
      .prepare("SELECT command_id, attempt, state, starts, output_done FROM attempts")
      .all();
    const counted: unknown = database.prepare("SELECT double_starts FROM journal").get();
    return {
      attempts: journalRows.parse(rows).map((row) => ({ ...row, home })),
      doubleStarts: z.object({ double_starts: z.number() }).parse(counted).double_starts,
    };
  } finally {
    database.close();
  }
}

export async function readStarts(file: string): Promise<RealStart[]> {
  const text = await readFile(file, "utf8").catch(() => "");
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [key = "", handle = ""] = line.split(" ");
      const [commandId = "", attempt = ""] = handle.split(".");
      return { key, commandId, attempt: Number(attempt) };
    });
}

export function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [item]);
    else group.push(item);
  }
  return groups;
}
