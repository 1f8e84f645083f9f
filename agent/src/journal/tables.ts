import { DatabaseSync, type DatabaseSyncInstance } from "@photostructure/sqlite";
import { randomUUID } from "node:crypto";
import { z } from "zod";

/** The journal file cannot be trusted: nothing may be claimed with it. An operator moves it away or restores it. */
export class JournalCorrupt extends Error {
  override readonly name = "JournalCorrupt";
}

const schemaVersion = 2;

const schema = `
  CREATE TABLE IF NOT EXISTS journal (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL,
    id TEXT NOT NULL,
    head INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    starts INTEGER NOT NULL,
    double_starts INTEGER NOT NULL,
    age_ms INTEGER NOT NULL,
    clean INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY,
    command_id TEXT,
    attempt INTEGER,
    kind TEXT NOT NULL,
    age_ms INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE IF NOT EXISTS attempts (
    command_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    vm_uuid TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    lane TEXT NOT NULL,
    action TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    nonce TEXT,
    token TEXT,
    driver TEXT,
    note TEXT,
    outcome TEXT,
    output_done INTEGER NOT NULL DEFAULT 0,
    starts INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    received_seq INTEGER NOT NULL,
    age_ms INTEGER NOT NULL,
    PRIMARY KEY (command_id, attempt)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS attempts_open ON attempts (received_seq)
    WHERE state NOT IN ('acked', 'forgotten', 'orphaned') OR output_done = 0;
  CREATE INDEX IF NOT EXISTS attempts_unsettled ON attempts (received_seq)
    WHERE state NOT IN ('acked', 'forgotten', 'orphaned');
  CREATE INDEX IF NOT EXISTS attempts_finished ON attempts (command_id) WHERE state = 'finished';
  CREATE INDEX IF NOT EXISTS attempts_age ON attempts (age_ms);
  CREATE INDEX IF NOT EXISTS records_age ON records (age_ms);
`;

export const journalRow = z.object({
  version: z.literal(schemaVersion),
  id: z.string(),
  head: z.number().int(),
  generation: z.number().int(),
  starts: z.number().int(),
  double_starts: z.number().int(),
  age_ms: z.number().int(),
  clean: z.number().int(),
});
export type JournalRow = z.infer<typeof journalRow>;

/** Opens the file, checks it whole, makes what is missing. Throws JournalCorrupt for a file that is not sound. */
export function openTables(file: string): { database: DatabaseSyncInstance; row: JournalRow } {
  const database = new DatabaseSync(file);
  try {
    // FULL: a record that was acknowledged survives a power cut, not only a crash.
    database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 1000");
    database.exec("PRAGMA journal_size_limit = 4194304; PRAGMA cache_size = -1024");
    const check: unknown = database.prepare("PRAGMA quick_check(1)").get();
    const verdict: unknown =
      typeof check === "object" && check !== null ? Object.values(check)[0] : "no answer";
    if (verdict !== "ok") throw new JournalCorrupt(`${file} does not pass its check: ${String(verdict)}`);
    database.exec(schema);
    database
      .prepare("INSERT OR IGNORE INTO journal VALUES (1, ?, ?, 0, 0, 0, 0, 0, 1)")
      .run(schemaVersion, randomUUID());
    upgrade(database);
    const row = journalRow.safeParse(database.prepare("SELECT * FROM journal").get());
    if (!row.success)
      throw new JournalCorrupt(`${file} is not a journal of this version`, { cause: row.error });
    return { database, row: row.data };
  } catch (error) {
    database.close();
    if (isCorruption(error)) throw new JournalCorrupt(`${file} is not a sound journal`, { cause: error });
    throw error;
  }
}

/** Version 1 wrote the nonce of a claim in a step of its own, `claiming`: what had not started gets its nonce now. */
function upgrade(database: DatabaseSyncInstance): void {
  const { old } = z
    .object({ old: z.number() })
    .parse(database.prepare("SELECT count(*) AS old FROM journal WHERE version = 1").get());
  if (old === 0) return;
  database.exec("BEGIN IMMEDIATE");
  try {
    const keys = z
      .array(z.object({ command_id: z.string(), attempt: z.number() }))
      .parse(
        database
          .prepare("SELECT command_id, attempt FROM attempts WHERE state IN ('received', 'claiming')")
          .all(),
      );
    const take = database.prepare(
      "UPDATE attempts SET state = 'received', nonce = coalesce(nonce, ?) WHERE command_id = ? AND attempt = ?",
    );
    for (const key of keys) take.run(randomUUID(), key.command_id, key.attempt);
    database.exec(`UPDATE journal SET version = ${schemaVersion}; COMMIT`);
  } catch (error) {
    database.exec("ROLLBACK");
    throw error;
  }
}

function isCorruption(error: unknown): boolean {
  return error instanceof Error && /malformed|not a database|corrupt/i.test(error.message);
}
