import { MusterError } from "@muster/contracts/errors";

/** After which version a listing goes on, newest first. */
export const versionCursorOf = (version: number): string =>
  Buffer.from(JSON.stringify({ version })).toString("base64url");

/** Throws CURSOR_INVALID for anything that `versionCursorOf` has not made. */
export function versionOf(cursor: string): number {
  const text = Buffer.from(cursor, "base64url").toString("utf8");
  const digits = /^\{"version":([1-9][0-9]{0,6})\}$/.exec(text)?.[1];
  if (digits === undefined) throw new MusterError("CURSOR_INVALID");
  return Number(digits);
}
