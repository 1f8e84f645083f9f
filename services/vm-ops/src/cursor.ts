import { MusterError } from "@muster/contracts/errors";
import type { z } from "zod";

/** A place in a listing, as text that callers hand back unread. */
export const cursorOf = (place: unknown): string => Buffer.from(JSON.stringify(place)).toString("base64url");

/** Throws CURSOR_INVALID for anything that `cursorOf` has not made for this listing. */
export function placeOf<S extends z.ZodType>(shape: S, cursor: string | undefined): z.output<S> | undefined {
  if (cursor === undefined) return undefined;
  let text: unknown;
  try {
    text = JSON.parse(Buffer.from(cursor, "base64url").toString("utf8"));
  } catch (cause) {
    throw new MusterError("CURSOR_INVALID", undefined, { cause });
  }
  const parsed = shape.safeParse(text);
  if (!parsed.success) throw new MusterError("CURSOR_INVALID", undefined, { cause: parsed.error });
  return parsed.data;
}
