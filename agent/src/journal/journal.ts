import { join } from "node:path";
import type { DatabaseSyncInstance, StatementSyncInstance } from "@photostructure/sqlite";
import { z } from "zod";
import { attemptRow, type AttemptKey, type AttemptRow, type Change } from "./records.ts";
import { openTables, type JournalRow } from "./tables.ts";

/** The disk does not take records now: nothing may be claimed until it does. */
export class JournalUnwritable extends Error {
  override readonly name = "JournalUnwritable";
}

/** Time that results and records are kept, in milliseconds of the agent's own running time: no clock can shorten it. */
export const retentionMs = 14 * 24 * 3_600_000;
const probeMs = 2_000;
const changesPerFlushMax = 500;
export const pruneRowsMax = 500;

interface Waiting {
  readonly change: Change;
  resolve(): void;
  reject(error: Error): void;
}

/** Column names that a change may set; the SQL text is made from these alone. */
const fieldColumns = ["nonce", "token", "driver", "note", "outcome", "output_done", "crashes"] as const;

/**
 * What this agent has promised and done. `write` resolves when the record is on disk; what is written in one turn of the
 * event loop shares one flush.
 */
export class Journal {
  readonly id: string;
  /** The agent that wrote last ended without closing. */
  readonly afterCrash: boolean;
  readonly #database: DatabaseSyncInstance;
  readonly #statements = new Map<string, StatementSyncInstance>();
  readonly #openedAt = performance.now();
  readonly #baseAgeMs: number;
  #row: JournalRow;
  #waiting: Waiting[] = [];
  #flushSoon: NodeJS.Immediate | undefined;
  #probe: NodeJS.Timeout | undefined;
  #unwritable: string | undefined;
  readonly #onState = new Set<() => void>();
  #closed = false;

  private constructor(database: DatabaseSyncInstance, row: JournalRow) {
    this.#database = database;
    this.#row = { ...row, clean: 0 };
    this.#baseAgeMs = row.age_ms;
    this.id = row.id;
    this.afterCrash = row.clean === 0;
  }

  /** Throws JournalCorrupt. The home must be locked. */
  static open(home: string): Journal {
    const { database, row } = openTables(join(home, "journal.db"));
    const journal = new Journal(database, row);
    database.exec("UPDATE journal SET clean = 0");
    return journal;
  }

  get head(): number {
    return this.#row.head;
  }

  get lastGeneration(): number {
    return this.#row.generation;
  }

  get counts(): { starts: number; doubleStarts: number } {
    return { starts: this.#row.starts, doubleStarts: this.#row.double_starts };
  }

  /** Undefined while records can be written, else why they cannot. */
  get unwritable(): string | undefined {
    return this.#unwritable;
  }

  /** Called at every change between writable and not; answers how to stop that. */
  onState(listener: () => void): () => void {
    this.#onState.add(listener);
    return () => this.#onState.delete(listener);
  }

  /** Resolves when the journal takes records; rejects when `signal` is aborted first. */
  whenWritable(signal: AbortSignal): Promise<void> {
    if (this.#unwritable === undefined) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const done = (): void => {
        stopListening();
        signal.removeEventListener("abort", done);
        if (this.#unwritable === undefined) resolve();
        else reject(new JournalUnwritable("stopping"));
      };
      const stopListening = this.onState(() => this.#unwritable === undefined && done());
      signal.addEventListener("abort", done);
      if (signal.aborted) done();
    });
  }

  /** Resolves when it is on disk; rejects with JournalUnwritable, and then nothing of it is. */
  write(change: Change): Promise<void> {
    if (this.#closed) return Promise.reject(new JournalUnwritable("the journal is closed"));
    return new Promise((resolve, reject) => {
      this.#waiting.push({ change, resolve, reject });
      this.#flushSoon ??= setImmediate(() => this.#flush());
    });
  }

  #flush(): void {
    this.#flushSoon = undefined;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, changesPerFlushMax);
      const before = this.#row;
      try {
        this.#transaction(() => {
          for (const { change } of batch) this.#apply(change);
          this.#saveRow();
        });
      } catch (error) {
        this.#row = before;
        this.#setUnwritable(error instanceof Error ? error.message : String(error));
        const refusal = new JournalUnwritable("the journal cannot be written", { cause: error });
        for (const { reject } of batch) reject(refusal);
        continue;
      }
      this.#setUnwritable(undefined);
      for (const { resolve } of batch) resolve();
    }
  }

  #transaction(work: () => void): void {
    this.#database.exec("BEGIN IMMEDIATE");
    try {
      work();
      this.#database.exec("COMMIT");
    } catch (error) {
      // A full disk may have rolled back already.
      if (this.#database.isTransaction) this.#database.exec("ROLLBACK");
      throw error;
    }
  }

  #statement(sql: string): StatementSyncInstance {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#database.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }

  /** Running time of all agents that kept this journal. */
  #ageMs(): number {
    return this.#baseAgeMs + Math.round(performance.now() - this.#openedAt);
  }

  #apply(change: Change): void {
    const age = this.#ageMs();
    this.#row = { ...this.#row, head: this.#row.head + 1, age_ms: age };
    const key = "key" in change ? change.key : undefined;
    this.#statement("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)").run(
      this.#row.head,
      key?.commandId ?? null,
      key?.attempt ?? null,
      change.kind,
      age,
      Date.now(),
    );
    switch (change.kind) {
      case "session":
        this.#row = { ...this.#row, generation: change.generation };
        return;
      case "stopped":
        this.#row = { ...this.#row, clean: 1 };
        return;
      case "received":
        return this.#receive(change);
      default:
        return this.#advance(change);
    }
  }

  #receive(change: Extract<Change, { kind: "received" }>): void {
    const { vm_uuid, epoch, lane, action, correlation_id } = change.bell;
    this.#statement(
      `INSERT INTO attempts (command_id, attempt, state, vm_uuid, epoch, lane, action, correlation_id, nonce,
         received_seq, age_ms)
       VALUES (?, ?, 'received', ?, ?, ?, ?, ?, ?, ?, ?)
       ON CONFLICT DO UPDATE SET state = 'received', output_done = 0, epoch = excluded.epoch, nonce = excluded.nonce,
         token = NULL, age_ms = excluded.age_ms
       WHERE state = 'forgotten'`,
    ).run(
      change.key.commandId,
      change.key.attempt,
      vm_uuid,
      epoch,
      lane,
      action,
      correlation_id,
      change.nonce,
      this.#row.head,
      this.#ageMs(),
    );
  }

  #advance(change: Exclude<Change, { kind: "received" | "session" | "stopped" }>): void {
    const { commandId, attempt } = change.key;
    if (change.kind === "starting") this.#countStart(change.key);
    const sets = ["age_ms = ?"];
    const values: (string | number | null)[] = [this.#ageMs()];
    if (change.kind !== "noted") {
      sets.push("state = ?");
      values.push(change.kind);
    }
    for (const column of fieldColumns) {
      const value = change.fields?.[column];
      if (value === undefined) continue;
      sets.push(`${column} = ?`);
      values.push(columnValue(value));
    }
    this.#statement(`UPDATE attempts SET ${sets.join(", ")} WHERE command_id = ? AND attempt = ?`).run(
      ...values,
      commandId,
      attempt,
    );
  }

  #countStart(key: AttemptKey): void {
    const bumped: unknown = this.#statement(
      "UPDATE attempts SET starts = starts + 1 WHERE command_id = ? AND attempt = ? RETURNING starts",
    ).get(key.commandId, key.attempt);
    const starts = z.object({ starts: z.number() }).safeParse(bumped);
    const again = starts.success && starts.data.starts > 1 ? 1 : 0;
    this.#row = {
      ...this.#row,
      starts: this.#row.starts + 1,
      double_starts: this.#row.double_starts + again,
    };
  }

  #saveRow(): void {
    const { head, generation, starts, double_starts, age_ms, clean } = this.#row;
    this.#statement(
      "UPDATE journal SET head = ?, generation = ?, starts = ?, double_starts = ?, age_ms = ?, clean = ?",
    ).run(head, generation, starts, double_starts, age_ms, clean);
  }

  #setUnwritable(reason: string | undefined): void {
    const changed = (reason === undefined) !== (this.#unwritable === undefined);
    this.#unwritable = reason;
    if (reason !== undefined && this.#probe === undefined && !this.#closed) {
      this.#probe = setInterval(() => this.#tryAgain(), probeMs);
    }
    if (reason === undefined) {
      clearInterval(this.#probe);
      this.#probe = undefined;
    }
    if (changed) for (const listener of this.#onState) listener();
  }

  #tryAgain(): void {
    try {
      this.#transaction(() =>
        this.#database.exec(`CREATE TABLE probe AS SELECT zeroblob(16384) AS room; DROP TABLE probe`),
      );
      this.#setUnwritable(undefined);
    } catch (error) {
      this.#unwritable = error instanceof Error ? error.message : String(error);
    }
  }

  find(key: AttemptKey): AttemptRow | undefined {
    const row: unknown = this.#statement("SELECT * FROM attempts WHERE command_id = ? AND attempt = ?").get(
      key.commandId,
      key.attempt,
    );
    return row === undefined ? undefined : attemptRow.parse(row);
  }

  /** Crashes of the agent while any attempt of this command was starting or started. */
  crashesOf(commandId: string): number {
    const row: unknown = this.#statement(
      "SELECT coalesce(sum(crashes), 0) AS n FROM attempts WHERE command_id = ?",
    ).get(commandId);
    return z.object({ n: z.number() }).parse(row).n;
  }

  /** Attempts that still want something done, oldest first; without their outcomes, which may be large. */
  open(): AttemptRow[] {
    const rows = this.#statement(
      `SELECT command_id, attempt, state, vm_uuid, epoch, lane, action, correlation_id, nonce, token, driver, note,
              NULL AS outcome, output_done, starts, crashes
       FROM attempts
       WHERE (state NOT IN ('acked', 'forgotten', 'orphaned') OR output_done = 0) AND state <> 'forgotten'
       ORDER BY received_seq`,
    ).all();
    return rows.map((row) => attemptRow.parse(row));
  }

  /** Attempts without an acknowledged result, oldest first. */
  unsettled(limit: number): { command_id: string; attempt: number }[] {
    const rows = this.#statement(
      `SELECT command_id, attempt FROM attempts
       WHERE state NOT IN ('acked', 'forgotten', 'orphaned') ORDER BY received_seq LIMIT ?`,
    ).all(limit);
    return z.array(z.object({ command_id: z.string(), attempt: z.number() })).parse(rows);
  }

  unacknowledgedResults(): number {
    const row: unknown = this.#statement("SELECT count(*) AS n FROM attempts WHERE state = 'finished'").get();
    return z.object({ n: z.number() }).parse(row).n;
  }

  /** Drops what is past its retention, some rows at a time; answers the handles whose runs may go too. */
  prune(): AttemptKey[] {
    const oldest = this.#ageMs() - retentionMs;
    if (oldest <= 0 || this.#unwritable !== undefined) return [];
    const rows = this.#statement(
      `DELETE FROM attempts WHERE (command_id, attempt) IN
         (SELECT command_id, attempt FROM attempts
          WHERE age_ms < ? AND state IN ('finished', 'acked', 'forgotten', 'orphaned') LIMIT ${pruneRowsMax})
       RETURNING command_id, attempt`,
    ).all(oldest);
    this.#statement(
      `DELETE FROM records WHERE seq IN (SELECT seq FROM records WHERE age_ms < ? LIMIT ${pruneRowsMax * 8})`,
    ).run(oldest);
    const keys = z.array(z.object({ command_id: z.string(), attempt: z.number() })).parse(rows);
    return keys.map(({ command_id, attempt }) => ({ commandId: command_id, attempt }));
  }

  /** Writes what waits and marks the end as clean. */
  async close(): Promise<void> {
    if (this.#closed) return;
    await this.write({ kind: "stopped" }).catch(() => undefined);
    this.#closed = true;
    clearInterval(this.#probe);
    this.#statements.clear();
    this.#database.close();
  }
}

function columnValue(value: string | number | boolean | object | null): string | number | null {
  if (value === null || typeof value === "string" || typeof value === "number") return value;
  return typeof value === "boolean" ? Number(value) : JSON.stringify(value);
}
