import { Pool } from "pg";

/** As a hand-written program would have it: a key, the time of the latest commands, nothing else. */
const schema = `
  CREATE TABLE raw_commands (
    id uuid PRIMARY KEY,
    vm integer NOT NULL,
    status text NOT NULL,
    payload text NOT NULL,
    result text,
    created_at timestamptz NOT NULL DEFAULT now(),
    claimed_at timestamptz,
    finished_at timestamptz
  ) WITH (fillfactor = 75);
  CREATE INDEX raw_commands_created ON raw_commands (created_at);
  CREATE TABLE raw_outbox (id uuid PRIMARY KEY, queue text NOT NULL, body text NOT NULL);
`;

export async function makeRawTables(databaseUrl: string): Promise<void> {
  const pool = new Pool({ connectionString: databaseUrl, max: 1 });
  await pool.query(schema);
  await pool.end();
}

/** Batches go by key: without these a plan made while the tables were empty would walk them whole. */
export const byKeyOnly = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off";

export const insertText = `WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[]) AS g(id, vm, queue, payload)
  ), written AS (
    INSERT INTO raw_commands (id, vm, status, payload) SELECT id, vm, 'accepted', payload FROM given
  )
  INSERT INTO raw_outbox (id, queue, body) SELECT id, queue, payload FROM given`;

export const deleteText = "DELETE FROM raw_outbox WHERE id = ANY ($1::uuid[])";

export const claimText = `UPDATE raw_commands c SET status = 'running', claimed_at = now()
  FROM unnest($1::uuid[]) AS g(id) WHERE c.id = g.id AND c.status = 'accepted'`;

export const finishText = `UPDATE raw_commands c SET status = 'done', result = g.result, finished_at = now()
  FROM unnest($1::uuid[], $2::text[]) AS g(id, result) WHERE c.id = g.id AND c.status <> 'done'`;
