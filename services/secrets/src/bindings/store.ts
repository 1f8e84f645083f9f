import { createHash } from "node:crypto";
import { followUpView } from "@muster/contracts/rotations";
import type { FollowUp } from "@muster/contracts/rotations";
import { bindingAppearance, bindingTarget } from "@muster/contracts/secrets";
import type { BindingAppearance, BindingView } from "@muster/contracts/secrets";
import type { Tx } from "@muster/database/database";
import { z } from "zod";

export type BindingTarget = z.output<typeof bindingTarget>;

const bindingRow = z.object({
  id: z.string(),
  secret_id: z.string(),
  secret_name: z.string(),
  target: bindingTarget,
  appearance: bindingAppearance,
  field: z.string().nullable(),
  follow_up: followUpView.nullable(),
  created_by: z.string(),
  created_at: z.date(),
});
export type BindingRow = z.output<typeof bindingRow>;

const columns = `b.id, b.secret_id, s.name AS secret_name, b.target, b.appearance, b.field, b.follow_up,
  b.created_by, b.created_at`;

export const bindingViewOf = ({ appearance, ...row }: BindingRow): BindingView => ({
  ...row,
  as: appearance,
  created_at: row.created_at.toISOString(),
});

export interface NewBinding {
  readonly id: string;
  readonly tenantId: string;
  readonly secretId: string;
  readonly target: BindingTarget;
  readonly as: BindingAppearance;
  readonly field: string | null;
  readonly followUp: FollowUp | null;
  readonly createdBy: string;
}

/** False when there is one that says the same. Under the secret's lock. */
export async function insertBinding(tx: Tx, binding: NewBinding): Promise<boolean> {
  const inserted = await tx.execute(
    `INSERT INTO bindings (id, tenant_id, secret_id, target, appearance, field, follow_up, sameness, created_by)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (secret_id, sameness) DO NOTHING`,
    [
      ...[binding.id, binding.tenantId, binding.secretId],
      ...[JSON.stringify(binding.target), JSON.stringify(binding.as), binding.field],
      binding.followUp === null ? null : JSON.stringify(binding.followUp),
      ...[samenessOf(binding), binding.createdBy],
    ],
  );
  return inserted === 1;
}

/** Of what a binding says, whatever the order that its labels were given in. */
function samenessOf({ target, as, field }: Pick<NewBinding, "target" | "as" | "field">): Buffer {
  const sorted =
    "labels" in target
      ? { labels: Object.entries(target.labels).sort(([a], [b]) => (a < b ? -1 : 1)) }
      : target;
  return createHash("sha256")
    .update(JSON.stringify([sorted, as, field]))
    .digest();
}

export async function countBindings(tx: Tx, tenantId: string, secretId: string): Promise<number> {
  const text = "SELECT count(*)::integer AS bindings FROM bindings WHERE tenant_id = $1 AND secret_id = $2";
  const [row] = await tx.query(text, [tenantId, secretId]);
  return z.object({ bindings: z.number() }).parse(row).bindings;
}

export async function findBinding(tx: Tx, tenantId: string, id: string): Promise<BindingRow | undefined> {
  const [row] = await tx.query(
    `SELECT ${columns} FROM bindings b JOIN secrets s ON s.id = b.secret_id WHERE b.tenant_id = $1 AND b.id = $2`,
    [tenantId, id],
  );
  return row === undefined ? undefined : bindingRow.parse(row);
}

/** Newest first, after `before`; of one secret, or for one VM by its id, where that is given. */
export async function listBindingRows(
  tx: Tx,
  o: {
    tenantId: string;
    secretId: string | null;
    vmUuid: string | null;
    before: string | null;
    limit: number;
  },
): Promise<BindingRow[]> {
  const rows = await tx.query(
    `SELECT ${columns} FROM bindings b JOIN secrets s ON s.id = b.secret_id
      WHERE b.tenant_id = $1 AND ($2::uuid IS NULL OR b.secret_id = $2)
        AND ($3::text IS NULL OR b.target ->> 'vm_uuid' = $3) AND ($4::uuid IS NULL OR b.id < $4)
      ORDER BY b.id DESC LIMIT $5`,
    [o.tenantId, o.secretId, o.vmUuid, o.before, o.limit],
  );
  return rows.map((row) => bindingRow.parse(row));
}

/** False when somebody else has removed it. */
export async function removeBindingRow(tx: Tx, tenantId: string, id: string): Promise<boolean> {
  return (await tx.execute("DELETE FROM bindings WHERE tenant_id = $1 AND id = $2", [tenantId, id])) === 1;
}

export async function removeBindingsOf(tx: Tx, tenantId: string, secretId: string): Promise<void> {
  await tx.execute("DELETE FROM bindings WHERE tenant_id = $1 AND secret_id = $2", [tenantId, secretId]);
}

const boundRow = z.object({
  secret_id: z.string(),
  name: z.string(),
  state: z.enum(["enabled", "disabled"]),
  current_version: z.number(),
  binding_id: z.string(),
  target: bindingTarget,
  appearance: bindingAppearance,
  field: z.string().nullable(),
});
export type BoundRow = z.output<typeof boundRow>;

export interface Whom {
  readonly tenantId: string;
  readonly vmUuid: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly projectId: string | null;
}

/**
 * Every binding of secrets of these names that is for this attempt, oldest first; the secrets are held as they are until the
 * transaction ends, so that whoever disables one waits, and then sees who was given it.
 */
export async function lockBound(tx: Tx, names: readonly string[], whom: Whom): Promise<BoundRow[]> {
  const rows = await tx.query(
    `SELECT s.id AS secret_id, s.name, s.state, s.current_version, b.id AS binding_id, b.target, b.appearance, b.field
       FROM secrets s JOIN bindings b ON b.secret_id = s.id
      WHERE s.tenant_id = $1 AND s.name = ANY ($2) AND s.state IN ('enabled', 'disabled')
        AND (b.target ->> 'vm_uuid' = $3 OR b.target ->> 'project_id' = $4
             OR (b.target ? 'labels' AND $5::jsonb @> (b.target -> 'labels')))
      ORDER BY s.id, b.id FOR SHARE OF s, b`,
    [whom.tenantId, names, whom.vmUuid, whom.projectId, JSON.stringify(whom.labels)],
  );
  return rows.map((row) => boundRow.parse(row));
}
