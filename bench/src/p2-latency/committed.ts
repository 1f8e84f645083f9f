import type { Pool } from "pg";
import { z } from "zod";

const rowsSchema = z.array(z.object({ id: z.string(), at: z.coerce.number() }));

/** When each of these rows was last committed, in wall milliseconds by its id. Needs track_commit_timestamp. */
export async function committedAt(
  database: Pool,
  table: string,
  where: string,
): Promise<Map<string, number>> {
  const { rows } = await database.query(
    `SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000 AS at FROM ${table}
     WHERE ${where} AND finished_at > now() - interval '30 s'`,
  );
  return new Map(rowsSchema.parse(rows).map(({ id, at }) => [id, at]));
}
