/** Text that others chose, fit for the database: no NUL, no half of a surrogate pair. */
export const storable = (text: string): string => text.replaceAll(/[\0\p{Cs}]/gu, "\u{fffd}");
