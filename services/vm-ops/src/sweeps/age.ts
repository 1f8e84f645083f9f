const ageMsMax = 100 * 365 * 86_400_000;

/** The age asked for, in milliseconds; nothing is older than a century, before which the database's calendar may end. */
export const ageOf = (askedMs: number): number => Math.min(askedMs, ageMsMax);
