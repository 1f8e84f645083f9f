import { uuidv7 } from "@muster/contracts/ids";
import { openHome } from "../src/journal/home.ts";
import { Journal, JournalUnwritable } from "../src/journal/journal.ts";

/** Writes received records in groups until it dies; prints each command id once its record is acknowledged. */
const home = openHome(process.argv[2] ?? "");
const journal = Journal.open(home.path);
const bell = { vm_uuid: uuidv7(), epoch: 1, lane: "work", action: "exec", correlation_id: "c" } as const;
journal.onState(() =>
  process.stdout.write(`${journal.unwritable === undefined ? "writable" : "unwritable"}\n`),
);

async function writeOne(): Promise<void> {
  const commandId = uuidv7();
  try {
    await journal.write({ kind: "received", key: { commandId, attempt: 1 }, bell, nonce: uuidv7() });
    process.stdout.write(`${commandId}\n`);
  } catch (error) {
    if (!(error instanceof JournalUnwritable)) throw error;
    await journal.whenWritable(AbortSignal.timeout(60_000));
  }
}

for (;;) await Promise.all(Array.from({ length: 20 }, writeOne));
