import type { PreparedMessage } from "@muster/contracts/message";
import pg from "pg";
import type { PgConnection } from "./connection.ts";
import { z } from "zod";
import type { WrittenMessage } from "./outbox-desk.ts";

/** From here on one prepared statement with arrays is faster than literals; below it, saving a round trip is. */
const literalMessagesMax = 3;

const writtenRow = z.object({ id: z.number(), message_id: z.string(), after: z.number().nullable() });
const writtenRows = z.array(writtenRow);
const statementResults = z.array(z.object({ command: z.string(), rows: z.array(z.unknown()) }));
type WrittenRow = z.infer<typeof writtenRow>;

const columns =
  "message_id, type, exchange, routing_key, ordering_key, tenant_id, body, headers, next_attempt_at";

/** `after` sees the table as it was before this statement: rows written by it are linked by the caller. */
const returning = `SELECT fresh.id, fresh.message_id,
    (SELECT max(o.id) FROM outbox o WHERE o.ordering_key = fresh.ordering_key) AS after
  FROM fresh ORDER BY fresh.id`;

const insertArrays = `WITH fresh AS (
  INSERT INTO outbox (${columns})
  SELECT m.message_id, m.type, m.exchange, m.routing_key, m.ordering_key, m.tenant_id, m.body, m.headers,
    clock_timestamp() + $9 * interval '1 millisecond'
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::jsonb[])
    WITH ORDINALITY AS m(message_id, type, exchange, routing_key, ordering_key, tenant_id, body, headers, n)
  ORDER BY m.n
  RETURNING id, message_id, ordering_key
) ${returning}`;

/**
 * Writes the messages and commits, under the system role, in as few round trips as pays off.
 * `committing` is called right before COMMIT goes out: from then on a lost connection means an unknown outcome.
 * Resolves with the server's answer to COMMIT, which is ROLLBACK if a statement had failed before.
 */
export async function insertAndCommit(
  connection: PgConnection,
  o: {
    messages: readonly PreparedMessage[];
    leaseMs: number;
    /** The role to write as; undefined when the transaction has it already. */
    role: string | undefined;
    committing: () => void;
  },
): Promise<{ answer: string; written: WrittenMessage[] }> {
  const { messages } = o;
  const setRole = o.role === undefined ? "" : `SET LOCAL ROLE "${o.role}"; `;
  if (messages.length > literalMessagesMax) {
    if (setRole !== "") await connection.query(setRole);
    const inserted = await connection.query<WrittenRow>({
      name: "muster_outbox_insert",
      text: insertArrays,
      values: arraysOf(messages, o.leaseMs),
    });
    o.committing();
    const committed = await connection.query("COMMIT");
    return { answer: committed.command, written: link(messages, inserted.rows) };
  }
  o.committing();
  const text = `${setRole}${literalInsert(messages, o.leaseMs)}; COMMIT`;
  // Several statements in one text answer with one result each, which the driver's own types leave out.
  const results: unknown = await connection.query(text);
  const [inserted, committed] = statementResults.parse(results).slice(-2);
  return { answer: committed?.command ?? "", written: link(messages, writtenRows.parse(inserted?.rows)) };
}

function arraysOf(messages: readonly PreparedMessage[], leaseMs: number): unknown[] {
  return [
    messages.map((m) => m.id),
    messages.map((m) => m.type),
    messages.map((m) => m.exchange),
    messages.map((m) => m.routingKey),
    messages.map((m) => m.orderingKey),
    messages.map((m) => m.tenantId),
    messages.map((m) => m.body),
    messages.map((m) => JSON.stringify(m.headers)),
    leaseMs,
  ];
}

function literalInsert(messages: readonly PreparedMessage[], leaseMs: number): string {
  const rows = messages.map((m) => {
    const texts = [m.id, m.type, m.exchange, m.routingKey, m.orderingKey, m.tenantId, m.body].map(literal);
    const due = `clock_timestamp() + ${Math.trunc(leaseMs)} * interval '1 millisecond'`;
    return `(${texts.join(", ")}, ${literal(JSON.stringify(m.headers))}::jsonb, ${due})`;
  });
  return `WITH fresh AS (INSERT INTO outbox (${columns}) VALUES ${rows.join(", ")}
    RETURNING id, message_id, ordering_key) ${returning}`;
}

const literal = (text: string | null): string => (text === null ? "NULL" : pg.escapeLiteral(text));

/** Joins rows to their messages, and each to the row of its key before it, in this transaction or an earlier one. */
function link(messages: readonly PreparedMessage[], rows: readonly WrittenRow[]): WrittenMessage[] {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const lastOfKey = new Map<string, number>();
  return rows.map((row) => {
    const message = byId.get(row.message_id);
    if (message === undefined) throw new Error(`outbox row ${row.id} answers to no message written`);
    const key = message.orderingKey;
    const after = key === null ? null : (lastOfKey.get(key) ?? row.after);
    if (key !== null) lastOfKey.set(key, row.id);
    return { id: row.id, message, after };
  });
}
