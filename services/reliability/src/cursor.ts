import { MusterError } from "@muster/contracts/errors";
import { uuid } from "@muster/contracts/ids";

/** Listings go by a UUIDv7, newest first; the cursor is the last one shown. */
export const cursorOf = (lastId: string): string => Buffer.from(lastId).toString("base64url");

/** Throws CURSOR_INVALID for what no listing gave. */
export function idOfCursor(cursor: string): string {
  const id = uuid.safeParse(Buffer.from(cursor, "base64url").toString("utf8"));
  if (!id.success || cursorOf(id.data) !== cursor) throw new MusterError("CURSOR_INVALID");
  return id.data;
}

/** Rows were read one beyond the page: whether there is more. */
export function pageOf<T extends { readonly id: string }>(rows: readonly T[], limit: number) {
  const items = rows.slice(0, limit);
  const last = items.at(-1);
  const nextCursor = rows.length > limit && last !== undefined ? cursorOf(last.id) : null;
  return { items, nextCursor };
}
