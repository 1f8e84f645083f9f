import { isDeepStrictEqual } from "node:util";
import { MusterError } from "@muster/contracts/errors";
import type { Tx } from "@muster/database/database";
import { z } from "zod";
import type { Caller } from "./caller.ts";
import type { Keys } from "./keys/keys.ts";
import { fingerprintOf, isSame } from "./transport/fingerprint.ts";

export interface Asked {
  readonly kind: "secret" | "version" | "rotation" | "binding";
  readonly key: string | undefined;
  /** What was asked for; nothing secret is in it. */
  readonly requested: Readonly<Record<string, unknown>>;
  /** What is secret in it: kept as a fingerprint alone. */
  readonly material?: unknown;
}

export interface Creation {
  readonly secretId: string;
  readonly version: number | null;
  /** Undefined while its material is on its way to the vault. */
  readonly answer: unknown;
}

const keptRow = z.object({
  requested: z.record(z.string(), z.unknown()),
  fingerprint: z.instanceof(Buffer).nullable(),
  fingerprint_key: z.string().nullable(),
  secret_id: z.string(),
  version: z.number().nullable(),
  answer: z.unknown(),
});

const placeOf = ({ tenantId, subject }: Caller, { kind, key }: Asked) => [tenantId, subject, kind, key];
const aboutOf = ({ tenantId }: Caller, { kind }: Asked): string => `${tenantId}/${kind}`;

/** What this caller made under this key. Throws IDEMPOTENCY_KEY_REUSED naming what differs. */
export async function findCreation(
  tx: Tx,
  keys: Keys,
  caller: Caller,
  asked: Asked,
): Promise<Creation | undefined> {
  if (asked.key === undefined) return undefined;
  // Of two requests under one key, the second looks when the first has written what it makes.
  await tx.query("SELECT pg_advisory_xact_lock(hashtext('muster.secrets.creation'), hashtext($1))", [
    JSON.stringify(placeOf(caller, asked)),
  ]);
  const [row] = await tx.query(
    `SELECT requested, fingerprint, fingerprint_key, secret_id, version, answer FROM creations
      WHERE tenant_id = $1 AND principal = $2 AND kind = $3 AND idempotency_key = $4`,
    placeOf(caller, asked),
  );
  if (row === undefined) return undefined;
  const kept = keptRow.parse(row);
  const differing = fieldsThatDiffer(kept.requested, asJson(asked.requested));
  if (asked.material !== undefined) {
    const { fingerprint: digest, fingerprint_key: keyId } = kept;
    const same =
      digest !== null &&
      keyId !== null &&
      isSame({ digest, keyId }, keys, aboutOf(caller, asked), asked.material);
    if (!same) differing.push("material");
  }
  if (differing.length > 0) {
    const details = differing.map((path) => ({
      path,
      message: "differs from the first request under this key",
    }));
    throw new MusterError("IDEMPOTENCY_KEY_REUSED", undefined, { details });
  }
  return { secretId: kept.secret_id, version: kept.version, answer: kept.answer ?? undefined };
}

/** After `findCreation`, in its transaction. */
export async function insertCreation(
  tx: Tx,
  keys: Keys,
  caller: Caller,
  o: { readonly asked: Asked } & Creation,
): Promise<void> {
  const { asked, secretId, version, answer } = o;
  if (asked.key === undefined) return;
  const made =
    asked.material === undefined ? undefined : fingerprintOf(keys, aboutOf(caller, asked), asked.material);
  await tx.execute(
    `INSERT INTO creations (tenant_id, principal, kind, idempotency_key, requested, fingerprint, fingerprint_key,
       secret_id, version, answer)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
    [
      ...[...placeOf(caller, asked), JSON.stringify(asked.requested)],
      ...[made?.digest ?? null, made?.keyId ?? null, secretId, version],
      answer === undefined ? null : JSON.stringify(answer),
    ],
  );
}

export async function answerCreation(tx: Tx, caller: Caller, asked: Asked, answer: unknown): Promise<void> {
  if (asked.key === undefined) return;
  await tx.execute(
    `UPDATE creations SET answer = $5
      WHERE tenant_id = $1 AND principal = $2 AND kind = $3 AND idempotency_key = $4 AND answer IS NULL`,
    [...placeOf(caller, asked), JSON.stringify(answer)],
  );
}

type Fields = Readonly<Record<string, unknown>>;

/** As the table gives it back. */
const asJson = (value: Fields): Fields =>
  z.record(z.string(), z.unknown()).parse(JSON.parse(JSON.stringify(value)));

function fieldsThatDiffer(first: Fields, second: Fields): string[] {
  const fields = [...new Set([...Object.keys(first), ...Object.keys(second)])].sort();
  return fields.filter((field) => !isDeepStrictEqual(first[field], second[field]));
}
