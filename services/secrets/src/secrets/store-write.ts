import type { Tx } from "@muster/database/database";
import { z } from "zod";
import type { Place } from "../vaults/vault.ts";

const key = ({ tenantId, secretId, version }: Place) => [tenantId, secretId, version];

export interface NewVersion extends Place {
  readonly fields: readonly string[];
  readonly createdBy: string;
}

/** On its way to the vault from now on. */
export async function insertVersion(tx: Tx, version: NewVersion): Promise<void> {
  await tx.execute(
    `INSERT INTO versions (tenant_id, secret_id, version, state, fields, created_by)
     VALUES ($1, $2, $3, 'writing', $4, $5)`,
    [...key(version), version.fields, version.createdBy],
  );
}

/** The next number of a secret, never given before nor again. Under the secret's lock. */
export async function nextVersion(tx: Tx, tenantId: string, secretId: string): Promise<number> {
  const [row] = await tx.query(
    `UPDATE secrets SET last_version = last_version + 1 WHERE tenant_id = $1 AND id = $2 RETURNING last_version`,
    [tenantId, secretId],
  );
  return z.object({ last_version: z.number() }).parse(row).last_version;
}

/** Those that are there or on their way. */
export async function countVersions(tx: Tx, tenantId: string, secretId: string): Promise<number> {
  const [row] = await tx.query(
    `SELECT count(*)::integer AS versions FROM versions
      WHERE tenant_id = $1 AND secret_id = $2 AND state IN ('writing', 'kept')`,
    [tenantId, secretId],
  );
  return z.object({ versions: z.number() }).parse(row).versions;
}

/** It is in the vault. False when it was given up, or is known to be there already. */
export async function markKept(tx: Tx, place: Place): Promise<boolean> {
  const updated = await tx.execute(
    `UPDATE versions SET state = 'kept', was_kept = true, changed_at = clock_timestamp()
      WHERE tenant_id = $1 AND secret_id = $2 AND version = $3 AND state = 'writing'`,
    key(place),
  );
  return updated === 1;
}

/** The newest version is the current one, in whatever order they arrive. Under the secret's lock. */
export async function makeCurrent(tx: Tx, place: Place, o: { rotated: boolean }): Promise<void> {
  await tx.execute(
    `UPDATE secrets SET state = CASE state WHEN 'making' THEN 'enabled' ELSE state END,
       current_version = greatest(current_version, $3::integer), changed_at = clock_timestamp(),
       rotated_at = CASE WHEN $4 THEN clock_timestamp() ELSE rotated_at END
      WHERE tenant_id = $1 AND id = $2`,
    [...key(place), o.rotated],
  );
}

/** An earlier version is the current one again. Under the secret's lock. */
export async function pointBackTo(tx: Tx, place: Place): Promise<void> {
  await tx.execute(
    `UPDATE secrets SET current_version = $3, changed_at = clock_timestamp()
      WHERE tenant_id = $1 AND id = $2 AND state IN ('enabled', 'disabled')`,
    key(place),
  );
}

/**
 * It never came to be, or nobody knows: whatever the vault has of it is to be destroyed, its secret's name is free if it was
 * the first, and the request that made it is forgotten, so that it may come again. False when it did come to be.
 */
export async function abandon(tx: Tx, place: Place): Promise<boolean> {
  const updated = await tx.execute(
    `UPDATE versions SET state = 'destroying', changed_at = clock_timestamp()
      WHERE tenant_id = $1 AND secret_id = $2 AND version = $3 AND state = 'writing'`,
    key(place),
  );
  if (updated === 0) return false;
  await tx.execute(
    "UPDATE secrets SET state = 'abandoned' WHERE tenant_id = $1 AND id = $2 AND state = 'making'",
    [place.tenantId, place.secretId],
  );
  await tx.execute(
    "DELETE FROM creations WHERE tenant_id = $1 AND secret_id = $2 AND version = $3 AND answer IS NULL",
    key(place),
  );
  return true;
}

/** Nothing of it is in the vault any more. What never came to be leaves no row. */
export async function markDestroyed(tx: Tx, place: Place): Promise<void> {
  await tx.execute(
    `DELETE FROM versions WHERE tenant_id = $1 AND secret_id = $2 AND version = $3
       AND state = 'destroying' AND NOT was_kept`,
    key(place),
  );
  await tx.execute(
    `UPDATE versions SET state = 'destroyed', destroyed_at = clock_timestamp(), changed_at = clock_timestamp()
      WHERE tenant_id = $1 AND secret_id = $2 AND version = $3 AND state = 'destroying'`,
    key(place),
  );
  await tx.execute("DELETE FROM secrets WHERE tenant_id = $1 AND id = $2 AND state = 'abandoned'", [
    place.tenantId,
    place.secretId,
  ]);
}

const placeRow = z.object({ tenant_id: z.string(), secret_id: z.string(), version: z.number() });
const placesOf = (rows: readonly unknown[]): Place[] =>
  rows
    .map((row) => placeRow.parse(row))
    .map((row) => ({ tenantId: row.tenant_id, secretId: row.secret_id, version: row.version }));

/** Of one secret, what is still to be destroyed. */
export async function findDestroying(tx: Tx, tenantId: string, secretId: string): Promise<Place[]> {
  const rows = await tx.query(
    `SELECT tenant_id, secret_id, version FROM versions
      WHERE tenant_id = $1 AND secret_id = $2 AND state = 'destroying' ORDER BY version`,
    [tenantId, secretId],
  );
  return placesOf(rows);
}

/** Everybody's, in this state for at least so long, oldest first. Under the system role. */
export async function findUnfinished(
  tx: Tx,
  o: { state: "writing" | "destroying"; olderThanMs: number; limit: number },
): Promise<Place[]> {
  const rows = await tx.query(
    `SELECT tenant_id, secret_id, version FROM versions
      WHERE state = $1 AND changed_at <= clock_timestamp() - $2 * interval '1 millisecond'
      ORDER BY changed_at LIMIT $3`,
    [o.state, o.olderThanMs, o.limit],
  );
  return placesOf(rows);
}

/** So that it waits its turn anew: what the vault refuses must not stand before what it takes. */
export async function postpone(tx: Tx, place: Place): Promise<void> {
  await tx.execute(
    `UPDATE versions SET changed_at = clock_timestamp()
      WHERE tenant_id = $1 AND secret_id = $2 AND version = $3 AND state = 'destroying'`,
    key(place),
  );
}
