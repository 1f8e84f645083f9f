import type { Tx } from "@muster/database/database";
import { z } from "zod";
import type { Place } from "../vault.ts";
import type { Envelope } from "./envelope.ts";

const placeRow = { tenant_id: z.string(), secret_id: z.string(), version: z.number() };
const keptRow = z.object({
  kek_id: z.string().nullable(),
  wrapped_key: z.instanceof(Buffer).nullable(),
  sealed: z.instanceof(Buffer).nullable(),
});
const wrappedRow = z.object({ ...placeRow, wrapped_key: z.instanceof(Buffer) });

const key = ({ tenantId, secretId, version }: Place) => [tenantId, secretId, version];

/** What is kept there; "destroyed" where it was, undefined where nothing ever was. */
export async function findSealed(tx: Tx, place: Place): Promise<Envelope | "destroyed" | undefined> {
  const [row] = await tx.query(
    `SELECT kek_id, wrapped_key, sealed FROM sealed_versions
      WHERE tenant_id = $1 AND secret_id = $2 AND version = $3`,
    key(place),
    { name: "sealed_find" },
  );
  if (row === undefined) return undefined;
  const { kek_id, wrapped_key, sealed } = keptRow.parse(row);
  if (kek_id === null || wrapped_key === null || sealed === null) return "destroyed";
  return { kekId: kek_id, wrappedKey: wrapped_key, sealed };
}

/** False where something is, or was. */
export async function insertSealed(tx: Tx, place: Place, { kekId, ...envelope }: Envelope): Promise<boolean> {
  const inserted = await tx.execute(
    `INSERT INTO sealed_versions (tenant_id, secret_id, version, kek_id, wrapped_key, sealed)
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
    [...key(place), kekId, envelope.wrappedKey, envelope.sealed],
  );
  return inserted === 1;
}

/** What was never there counts as destroyed too. */
export async function destroySealed(tx: Tx, place: Place): Promise<void> {
  await tx.execute(
    `INSERT INTO sealed_versions (tenant_id, secret_id, version, destroyed_at)
     VALUES ($1, $2, $3, clock_timestamp())
     ON CONFLICT (tenant_id, secret_id, version) DO UPDATE
       SET kek_id = NULL, wrapped_key = NULL, sealed = NULL, destroyed_at = clock_timestamp()
       WHERE sealed_versions.destroyed_at IS NULL`,
    key(place),
  );
}

/** Ids of every key that anything is wrapped by, with one row of each. */
export async function findKekIds(tx: Tx): Promise<{ kekId: string; place: Place; envelope: Envelope }[]> {
  const rows = await tx.query(
    `WITH RECURSIVE ids AS (
       SELECT min(kek_id) AS kek_id FROM sealed_versions
       UNION ALL
       SELECT (SELECT min(s.kek_id) FROM sealed_versions s WHERE s.kek_id > ids.kek_id) FROM ids
        WHERE ids.kek_id IS NOT NULL)
     SELECT one.* FROM ids CROSS JOIN LATERAL (
       SELECT tenant_id, secret_id, version, s.kek_id, wrapped_key, sealed FROM sealed_versions s
        WHERE s.kek_id = ids.kek_id LIMIT 1) one`,
  );
  const row = z.object({
    ...placeRow,
    kek_id: z.string(),
    wrapped_key: z.instanceof(Buffer),
    sealed: z.instanceof(Buffer),
  });
  return rows.map((found) => {
    const { kek_id: kekId, wrapped_key: wrappedKey, sealed, ...at } = row.parse(found);
    return { kekId, place: placeOf(at), envelope: { kekId, wrappedKey, sealed } };
  });
}

/** Those that nobody else is wrapping anew, held until the transaction ends. */
export async function lockWrapped(
  tx: Tx,
  kekId: string,
  limit: number,
): Promise<{ place: Place; wrappedKey: Buffer }[]> {
  const rows = await tx.query(
    `SELECT tenant_id, secret_id, version, wrapped_key FROM sealed_versions
      WHERE kek_id = $1 LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED`,
    [kekId, limit],
  );
  return rows.map((found) => {
    const { wrapped_key: wrappedKey, ...at } = wrappedRow.parse(found);
    return { place: placeOf(at), wrappedKey };
  });
}

/** Under their locks. */
export async function updateWrapped(
  tx: Tx,
  kekId: string,
  rows: readonly { readonly place: Place; readonly wrappedKey: Buffer }[],
): Promise<void> {
  await tx.execute(
    `UPDATE sealed_versions s SET kek_id = $1, wrapped_key = n.wrapped_key
       FROM unnest($2::text[], $3::uuid[], $4::integer[], $5::bytea[]) AS n (tenant_id, secret_id, version, wrapped_key)
      WHERE s.tenant_id = n.tenant_id AND s.secret_id = n.secret_id AND s.version = n.version`,
    [
      kekId,
      rows.map(({ place }) => place.tenantId),
      rows.map(({ place }) => place.secretId),
      rows.map(({ place }) => place.version),
      rows.map(({ wrappedKey }) => wrappedKey),
    ],
  );
}

export async function countWrapped(tx: Tx, kekId: string): Promise<number> {
  const text = "SELECT count(*)::integer AS wrapped FROM sealed_versions WHERE kek_id = $1";
  const [row] = await tx.query(text, [kekId]);
  return z.object({ wrapped: z.number() }).parse(row).wrapped;
}

const placeOf = (row: { tenant_id: string; secret_id: string; version: number }): Place => ({
  tenantId: row.tenant_id,
  secretId: row.secret_id,
  version: row.version,
});
