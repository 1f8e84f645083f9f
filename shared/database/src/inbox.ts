import type { Database } from "./database.ts";
import type { Tx } from "./transaction.ts";

export interface InboxMessage {
  readonly id: string;
  readonly tenantId: string | null;
}

export interface Inbox {
  /**
   * Writes the ids down and runs the work in one transaction under the system role. `freshIds` are those that this
   * consumer has never finished before: the work must skip the others. A concurrent delivery of the same id waits
   * for this transaction, and finds the id taken if it commits.
   */
  runOnce<T>(
    messages: readonly InboxMessage[],
    work: (tx: Tx, freshIds: ReadonlySet<string>) => Promise<T>,
  ): Promise<T>;
}

const batchMax = 10_000;

// Sorted, so that two batches with the same ids wait for each other instead of deadlocking.
const insert = `INSERT INTO inbox (consumer, message_id)
  SELECT $1, id FROM unnest($2::text[]) WITH ORDINALITY AS m(id, n) ORDER BY n
  ON CONFLICT DO NOTHING RETURNING message_id`;

/** `consumer` names who has seen the message; one name per subscription. */
export function openInbox(database: Database, consumer: string): Inbox {
  return {
    runOnce(messages, work) {
      if (messages.length > batchMax) throw new RangeError(`a batch of more than ${batchMax} messages`);
      const ids = [...new Set(messages.map((message) => message.id))].sort();
      return database.transaction("system", async (tx) => {
        const rows = await tx.query<{ message_id: string }>(insert, [consumer, ids], {
          name: "muster_inbox",
        });
        return work(tx, new Set(rows.map((row) => row.message_id)));
      });
    },
  };
}

/** Forgets ids older than `olderThanMs`, at most `limit`; answers how many. Keep them longer than any redelivery. */
export function pruneInbox(database: Database, olderThanMs: number, limit: number): Promise<number> {
  return database.transaction("system", (tx) =>
    tx.execute(
      `DELETE FROM inbox WHERE ctid = ANY (ARRAY(
         SELECT ctid FROM inbox WHERE received_at < now() - $1 * interval '1 millisecond'
         LIMIT $2 FOR UPDATE SKIP LOCKED))`,
      [olderThanMs, limit],
    ),
  );
}
