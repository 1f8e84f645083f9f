import { isDeepStrictEqual } from "node:util";
import { MusterError } from "@muster/contracts/errors";
import type { Tx } from "@muster/database/database";
import { z } from "zod";
import type { Caller } from "./caller.ts";
import { storable } from "./text.ts";

export interface Creation<S extends z.ZodType> {
  readonly kind: "api-key" | "user" | "service-account" | "tenant" | "issuer" | "pairing-code";
  readonly key: string | undefined;
  readonly requested: Readonly<Record<string, unknown>>;
  /** What is kept and answered again; nothing secret may be in it. */
  readonly answer: S;
}

const keptRow = z.object({ requested: z.record(z.string(), z.unknown()), answer: z.unknown() });

/**
 * Makes it, or answers as before where the caller's key was used. Only under the tenant's lock: `changerOf`.
 * Throws IDEMPOTENCY_KEY_REUSED naming what differs.
 */
export async function once<S extends z.ZodType>(
  tx: Tx,
  caller: Caller,
  o: Creation<S>,
  make: () => Promise<z.output<S>>,
): Promise<{ answer: z.output<S>; replayed: boolean }> {
  if (o.key === undefined) return { answer: await make(), replayed: false };
  const place = [caller.tenantId, caller.principalId, o.kind, o.key];
  const [row] = await tx.query(
    `SELECT requested, answer FROM creations
      WHERE tenant_id = $1 AND principal_id = $2 AND kind = $3 AND idempotency_key = $4`,
    place,
  );
  const requested = JSON.stringify(o.requested, (_key, value: unknown) =>
    typeof value === "string" ? storable(value) : value,
  );
  if (row !== undefined) {
    const kept = keptRow.parse(row);
    refuseOther(kept.requested, z.record(z.string(), z.unknown()).parse(JSON.parse(requested)));
    return { answer: o.answer.parse(kept.answer), replayed: true };
  }
  const answer = await make();
  await tx.query(
    `INSERT INTO creations (tenant_id, principal_id, kind, idempotency_key, requested, answer)
     VALUES ($1, $2, $3, $4, $5, $6)`,
    [...place, requested, JSON.stringify(answer)],
  );
  return { answer, replayed: false };
}

function refuseOther(
  first: Readonly<Record<string, unknown>>,
  second: Readonly<Record<string, unknown>>,
): void {
  const fields = [...new Set([...Object.keys(first), ...Object.keys(second)])].sort();
  const details = fields
    .filter((field) => !isDeepStrictEqual(first[field], second[field]))
    .map((path) => ({ path, message: "differs from the first request under this key" }));
  if (details.length > 0) throw new MusterError("IDEMPOTENCY_KEY_REUSED", undefined, { details });
}
