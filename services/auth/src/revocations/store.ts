import type { TokenRevocation } from "@muster/contracts/token-revocations";
import type { Tx } from "@muster/database/database";
import { z } from "zod";

const revocationRow = z.object({
  id: z.string(),
  tenant_id: z.string(),
  subject: z.string().nullable(),
  not_before: z.date(),
  until: z.date(),
  reason: z.string(),
});
export type RevocationRow = z.output<typeof revocationRow>;

const columns = "id, tenant_id, subject, not_before, until, reason";

export function revocationOf({ id: _id, ...row }: RevocationRow): TokenRevocation {
  return { ...row, not_before: row.not_before.toISOString(), until: row.until.toISOString() };
}

/** Voids what was given to this subject until now. What changes an account, key or issuer does so by triggers. */
export async function revokeTokensOf(
  tx: Tx,
  whose: { readonly tenantId: string; readonly subject: string },
  reason: string,
): Promise<void> {
  await tx.query("SELECT revoke_tokens($1, $2, $3)", [whose.tenantId, whose.subject, reason]);
}

/** Those whose event is not written, at most `limit`, of one tenant or of all; whoever takes them writes it. */
export async function takeUntold(tx: Tx, tenantId: string | null, limit: number): Promise<RevocationRow[]> {
  const rows = await tx.query(
    `UPDATE token_revocations SET told = true WHERE id IN
       (SELECT id FROM token_revocations WHERE NOT told AND ($1::text IS NULL OR tenant_id = $1)
         ORDER BY id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED)
     RETURNING ${columns}`,
    [tenantId, limit],
  );
  return rows.map((row) => revocationRow.parse(row));
}

/** Those that somebody has to remember, in the order of ids, after `after`. */
export async function listRevocationRows(
  tx: Tx,
  o: { readonly after: string | null; readonly limit: number },
): Promise<RevocationRow[]> {
  const rows = await tx.query(
    `SELECT ${columns} FROM token_revocations
      WHERE until > clock_timestamp() AND ($1::uuid IS NULL OR id > $1) ORDER BY id LIMIT $2`,
    [o.after, o.limit],
  );
  return rows.map((row) => revocationRow.parse(row));
}

/** Forgets at most `limit` that nobody has to remember; answers how many. */
export function pruneRevocations(tx: Tx, limit: number): Promise<number> {
  return tx.execute(
    `DELETE FROM token_revocations WHERE ctid = ANY (ARRAY(
       SELECT ctid FROM token_revocations WHERE until < clock_timestamp() LIMIT $1 FOR UPDATE SKIP LOCKED))`,
    [limit],
  );
}
