import { limitNames } from "@muster/contracts/limits";
import type { LimitName } from "@muster/contracts/limits";
import type { Tx } from "@muster/database/database";
import { z } from "zod";
import type { Bounds } from "./bounds.ts";

/** One look at one bucket. */
export interface Look {
  readonly limit: LimitName;
  readonly key: string;
  /** Takes one of what is left; otherwise it only looks. */
  readonly takes: boolean;
}

export interface Seen {
  /** Which of the looks, and of which group. */
  readonly group: number;
  readonly limit: LimitName;
  readonly key: string;
  readonly takes: boolean;
  /** What was left before anybody took. */
  readonly room: number;
  /** How many of all who wanted one of this bucket got it; null where none was taken. */
  readonly given: number | null;
  /** That filled it, for the first time in a window. */
  readonly filled: boolean;
  /** Until there is room again, in seconds. */
  readonly waitSeconds: number;
}

const seenRow = z
  .object({
    grp: z.number(),
    name: z.enum(limitNames),
    key: z.string(),
    takes: z.boolean(),
    room: z.number(),
    given: z.number().nullable(),
    filled: z.boolean().nullable(),
    wait_seconds: z.number(),
  })
  .transform(({ grp: group, name: limit, wait_seconds: waitSeconds, filled, ...row }): Seen => {
    return { ...row, group, limit, waitSeconds, filled: filled ?? false };
  });

/**
 * Looks at all and takes, in one statement. Of a group of which anything is full already, nothing is taken and no row is
 * locked: whoever is turned away costs a look. Rows are locked in one order until the transaction ends.
 */
export async function takeFrom(
  tx: Tx,
  groups: readonly (readonly Look[])[],
  bounds: Bounds,
): Promise<Seen[]> {
  const flat = groups.flatMap((looks, group) => looks.map((look) => ({ ...look, group })));
  if (flat.length === 0) return [];
  const rows = await tx.query(
    `WITH looks AS (
       SELECT a.*, coalesce(rate_limit_room(k.clear_at, statement_timestamp(), a.units, a.secs), a.units) AS room, k.clear_at
         FROM unnest($1::int[], $2::text[], $3::text[], $4::boolean[], $5::int[], $6::int[])
              AS a (grp, name, key, takes, units, secs)
         LEFT JOIN rate_limits k USING (name, key)
     ), wanted AS (
       SELECT name, key, units, secs, count(*)::int AS wanted
         FROM (SELECT *, min(room) OVER (PARTITION BY grp) AS least_room FROM looks) l
        WHERE takes AND least_room > 0
        GROUP BY name, key, units, secs ORDER BY name, key
     ), taken AS (
       INSERT INTO rate_limits AS k (name, key, clear_at, told_until, given, filled)
       SELECT name, key, statement_timestamp() + least(wanted, units) * interval '1 second' * secs / units,
              CASE WHEN wanted >= units THEN statement_timestamp() + interval '1 second' * secs ELSE '-infinity' END,
              least(wanted, units), wanted >= units
         FROM wanted
       ON CONFLICT (name, key) DO UPDATE SET (clear_at, told_until, given, filled) = (
         SELECT greatest(k.clear_at, statement_timestamp()) + now.given * interval '1 second' * w.secs / w.units,
                CASE WHEN now.filled THEN statement_timestamp() + interval '1 second' * w.secs ELSE k.told_until END,
                now.given, now.filled
           FROM wanted w,
                LATERAL (SELECT rate_limit_room(k.clear_at, statement_timestamp(), w.units, w.secs) AS room) left_over,
                LATERAL (SELECT least(w.wanted, room) AS given,
                                w.wanted >= room AND k.told_until <= statement_timestamp() AS filled) now
          WHERE w.name = k.name AND w.key = k.key)
       RETURNING name, key, given, filled, clear_at
     )
     SELECT l.grp, l.name, l.key, l.takes, l.room, t.given, t.filled,
            greatest(0, coalesce(extract(epoch FROM coalesce(t.clear_at, l.clear_at) - statement_timestamp()), 0)::float8
              - l.secs + l.secs::float8 / l.units) AS wait_seconds
       FROM looks l LEFT JOIN taken t ON l.takes AND t.name = l.name AND t.key = l.key
      ORDER BY l.grp`,
    [
      flat.map(({ group }) => group),
      flat.map(({ limit }) => limit),
      flat.map(({ key }) => key),
      flat.map(({ takes }) => takes),
      flat.map(({ limit }) => bounds[limit].max),
      flat.map(({ limit }) => bounds[limit].windowSeconds),
    ],
  );
  return rows.map((row) => seenRow.parse(row));
}

/** Rows that are kept at most, between two prunings: beyond it those go first that are the least full. */
export const rowsMax = 100_000;

/** Forgets what has leaked away, and what is beyond `rowsKeptMax`; answers how many rows. */
export async function pruneLimits(tx: Tx, limit: number, rowsKeptMax = rowsMax): Promise<number> {
  const over = await tx.execute(
    `DELETE FROM rate_limits WHERE ctid = ANY (ARRAY(
       SELECT ctid FROM rate_limits WHERE greatest(clear_at, told_until) <= statement_timestamp()
        LIMIT $1 FOR UPDATE SKIP LOCKED))`,
    [limit],
  );
  const beyond = await tx.execute(
    `DELETE FROM rate_limits WHERE ctid = ANY (ARRAY(
       SELECT ctid FROM rate_limits ORDER BY greatest(clear_at, told_until)
        LIMIT least($1::bigint, greatest(0, (SELECT count(*) FROM rate_limits) - $2)) FOR UPDATE SKIP LOCKED))`,
    [limit, rowsKeptMax],
  );
  return over + beyond;
}
