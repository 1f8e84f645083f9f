import { MusterError } from "@muster/contracts/errors";
import { uuid } from "@muster/contracts/ids";

/** After which entry a listing goes on: ids are UUIDv7, and listings are newest first. */
export const cursorOf = (id: string): string => Buffer.from(JSON.stringify({ id })).toString("base64url");

/** Throws CURSOR_INVALID for anything that `cursorOf` has not made. */
export function placeOf(cursor: string | undefined): string | null {
  if (cursor === undefined) return null;
  const text = Buffer.from(cursor, "base64url").toString("utf8");
  const id = /^\{"id":"([^"]*)"\}$/.exec(text)?.[1];
  if (!uuid.safeParse(id).success || id === undefined) throw new MusterError("CURSOR_INVALID");
  return id;
}

/** A page of what was read with one more than `limit`. */
export function pageOf<R extends { readonly id: string }, V>(
  rows: readonly R[],
  limit: number,
  viewOf: (row: R) => V,
): { items: V[]; next_cursor: string | null } {
  const last = rows.length > limit ? rows[limit - 1] : undefined;
  return {
    items: rows.slice(0, limit).map(viewOf),
    next_cursor: last === undefined ? null : cursorOf(last.id),
  };
}
