import { z } from "zod";

/** What one run of the test framework found. */
export const resultSchema = z.object({
  passed: z.number().int().min(0),
  failed: z.number().int().min(0),
  skipped: z.number().int().min(0),
});
export type Totals = z.output<typeof resultSchema>;

export const nothing: Totals = { passed: 0, failed: 0, skipped: 0 };
export const oneFailure: Totals = { passed: 0, failed: 1, skipped: 0 };

export function add(a: Totals, b: Totals): Totals {
  return { passed: a.passed + b.passed, failed: a.failed + b.failed, skipped: a.skipped + b.skipped };
}

/** The last line of a run. */
export function totalsLine({ passed, failed, skipped }: Totals): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;
}

/** A run that tested nothing proves nothing. */
export function exitCodeOf({ passed, failed }: Totals): number {
  return failed > 0 || passed === 0 ? 1 : 0;
}
