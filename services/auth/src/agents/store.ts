import type { AgentView, PairingCodeView } from "@muster/contracts/pairing";
import type { Tx } from "@muster/database/database";
import { z } from "zod";

const agentRow = z.object({
  id: z.string(),
  tenant_id: z.string(),
  name: z.string(),
  public_key: z.string(),
  key_thumbprint: z.string(),
  epoch: z.number(),
  revision: z.number(),
  vm_uuids: z.array(z.string()),
  paired_at: z.date(),
  revoked_at: z.date().nullable(),
  last_token_at: z.date().nullable(),
  token_until: z.date().nullable(),
});
export type AgentRow = z.output<typeof agentRow>;
const columns = `id, tenant_id, name, public_key, key_thumbprint, epoch, revision, vm_uuids, paired_at, revoked_at,
  last_token_at, token_until`;

export const agentViewOf = (row: AgentRow): AgentView => ({
  agent_id: row.id,
  name: row.name,
  state: row.revoked_at === null ? "paired" : "revoked",
  epoch: row.epoch,
  vm_uuids: row.vm_uuids,
  key_thumbprint: row.key_thumbprint,
  paired_at: row.paired_at.toISOString(),
  revoked_at: row.revoked_at?.toISOString() ?? null,
  last_token_at: row.last_token_at?.toISOString() ?? null,
});

const codeRow = z.object({
  id: z.string(),
  tenant_id: z.string(),
  agent_id: z.string(),
  name: z.string(),
  vm_uuids: z.array(z.string()),
  created_at: z.date(),
  expires_at: z.date(),
  expired: z.boolean(),
  used_by: z.string().nullable(),
  used_epoch: z.number().nullable(),
});
export type CodeRow = z.output<typeof codeRow>;
const codeColumns = `id, tenant_id, agent_id, name, vm_uuids, created_at, expires_at,
  expires_at <= clock_timestamp() AS expired, used_by, used_epoch`;

export const codeViewOf = (row: CodeRow): PairingCodeView => ({
  id: row.id,
  agent_id: row.agent_id,
  name: row.name,
  vm_uuids: row.vm_uuids,
  created_at: row.created_at.toISOString(),
  expires_at: row.expires_at.toISOString(),
});

const oneOf = (rows: readonly unknown[]): AgentRow | undefined =>
  rows[0] === undefined ? undefined : agentRow.parse(rows[0]);

export async function findAgent(tx: Tx, tenantId: string, id: string): Promise<AgentRow | undefined> {
  return oneOf(
    await tx.query(`SELECT ${columns} FROM agents WHERE tenant_id = $1 AND id = $2`, [tenantId, id]),
  );
}

/** Undefined also where its tenant is not active. */
export async function findAgentOfActive(tx: Tx, tenantId: string, id: string): Promise<AgentRow | undefined> {
  return oneOf(
    await tx.query(
      `SELECT ${columns} FROM agents a WHERE tenant_id = $1 AND id = $2
         AND EXISTS (SELECT 1 FROM tenants t WHERE t.tenant_id = a.tenant_id AND t.state = 'active')`,
      [tenantId, id],
    ),
  );
}

/** Held until the transaction ends. */
export async function lockAgent(tx: Tx, tenantId: string, id: string): Promise<AgentRow | undefined> {
  return oneOf(
    await tx.query(`SELECT ${columns} FROM agents WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE`, [
      ...[tenantId, id],
    ]),
  );
}

/** Of an active tenant, held until the transaction ends: what an assertion is held against. */
export async function lockPaired(tx: Tx, id: string): Promise<AgentRow | undefined> {
  return oneOf(
    await tx.query(
      `SELECT ${columns} FROM agents a WHERE id = $1 AND revoked_at IS NULL
         AND EXISTS (SELECT 1 FROM tenants t WHERE t.tenant_id = a.tenant_id AND t.state = 'active')
       FOR NO KEY UPDATE`,
      [id],
    ),
  );
}

export async function listAgentRows(
  tx: Tx,
  o: { tenantId: string; before: string | null; limit: number },
): Promise<AgentRow[]> {
  const rows = await tx.query(
    `SELECT ${columns} FROM agents WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3`,
    [o.tenantId, o.before, o.limit],
  );
  return rows.map((row) => agentRow.parse(row));
}

export interface Pairing {
  readonly id: string;
  readonly tenantId: string;
  readonly name: string;
  readonly publicKey: string;
  readonly thumbprint: string;
  readonly vmUuids: readonly string[];
}

/** A new agent, or the same one with another key and one epoch more. Undefined where the id is another tenant's. */
export async function pairRow(tx: Tx, pairing: Pairing): Promise<AgentRow | undefined> {
  return oneOf(
    await tx.query(
      `INSERT INTO agents AS a (id, tenant_id, name, public_key, key_thumbprint, vm_uuids)
       VALUES ($1, $2, $3, $4, $5, $6)
       ON CONFLICT (id) DO UPDATE SET name = excluded.name, public_key = excluded.public_key,
         key_thumbprint = excluded.key_thumbprint, vm_uuids = excluded.vm_uuids, epoch = a.epoch + 1,
         revision = a.revision + 1, paired_at = clock_timestamp(), revoked_at = NULL, last_token_at = NULL,
         token_until = NULL
       WHERE a.tenant_id = excluded.tenant_id
       RETURNING ${columns}`,
      [
        ...[pairing.id, pairing.tenantId, pairing.name, pairing.publicKey, pairing.thumbprint],
        pairing.vmUuids,
      ],
    ),
  );
}

export async function changeAgent(
  tx: Tx,
  agent: { readonly tenantId: string; readonly id: string },
  change: { readonly name: string | null; readonly vmUuids: readonly string[] | null },
): Promise<AgentRow> {
  const rows = await tx.query(
    `UPDATE agents SET name = coalesce($3, name), vm_uuids = coalesce($4::uuid[], vm_uuids), revision = revision + 1
      WHERE tenant_id = $1 AND id = $2 RETURNING ${columns}`,
    [agent.tenantId, agent.id, change.name, change.vmUuids],
  );
  return agentRow.parse(rows[0]);
}

export async function markRevoked(tx: Tx, tenantId: string, id: string): Promise<AgentRow> {
  const rows = await tx.query(
    `UPDATE agents SET revoked_at = clock_timestamp(), revision = revision + 1
      WHERE tenant_id = $1 AND id = $2 RETURNING ${columns}`,
    [tenantId, id],
  );
  return agentRow.parse(rows[0]);
}

/** A token that lives for so long is about to be given. */
export async function markTokens(tx: Tx, id: string, seconds: number): Promise<void> {
  await tx.query(
    `UPDATE agents SET last_token_at = clock_timestamp(),
       token_until = greatest(token_until, clock_timestamp() + $2 * interval '1 second') WHERE id = $1`,
    [id, seconds],
  );
}

/** False where it was used before. */
export async function useAssertion(
  tx: Tx,
  agent: Pick<AgentRow, "id" | "tenant_id">,
  assertion: { readonly jtiHash: Buffer; readonly expiresAt: Date },
): Promise<boolean> {
  const rows = await tx.query(
    `INSERT INTO agent_assertions (tenant_id, agent_id, jti, expires_at) VALUES ($1, $2, $3, $4)
     ON CONFLICT DO NOTHING RETURNING 1`,
    [agent.tenant_id, agent.id, assertion.jtiHash, assertion.expiresAt],
  );
  return rows.length > 0;
}

export interface NewCode {
  readonly id: string;
  readonly tenantId: string;
  readonly hash: Buffer;
  readonly agentId: string;
  readonly name: string;
  readonly vmUuids: readonly string[];
  readonly createdBy: string;
  readonly lifeSeconds: number;
}

export async function insertCode(tx: Tx, code: NewCode): Promise<CodeRow> {
  const rows = await tx.query(
    `INSERT INTO pairing_codes (id, tenant_id, hash, agent_id, name, vm_uuids, created_by, expires_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp() + $8 * interval '1 second') RETURNING ${codeColumns}`,
    [
      ...[code.id, code.tenantId, code.hash, code.agentId, code.name, code.vmUuids, code.createdBy],
      code.lifeSeconds,
    ],
  );
  return codeRow.parse(rows[0]);
}

export async function countOpenCodes(tx: Tx, tenantId: string): Promise<number> {
  const [row] = await tx.query(
    `SELECT count(*)::integer AS open FROM pairing_codes
      WHERE tenant_id = $1 AND used_at IS NULL AND expires_at > clock_timestamp()`,
    [tenantId],
  );
  return z.object({ open: z.number() }).parse(row).open;
}

/** Of an active tenant, held until the transaction ends. */
export async function lockCode(tx: Tx, hash: Buffer): Promise<CodeRow | undefined> {
  const [row] = await tx.query(
    `SELECT ${codeColumns} FROM pairing_codes c WHERE hash = $1
       AND EXISTS (SELECT 1 FROM tenants t WHERE t.tenant_id = c.tenant_id AND t.state = 'active')
     FOR NO KEY UPDATE`,
    [hash],
  );
  return row === undefined ? undefined : codeRow.parse(row);
}

export async function markCodeUsed(
  tx: Tx,
  id: string,
  by: { readonly thumbprint: string; readonly epoch: number },
): Promise<void> {
  await tx.query(
    "UPDATE pairing_codes SET used_at = clock_timestamp(), used_by = $2, used_epoch = $3 WHERE id = $1",
    [id, by.thumbprint, by.epoch],
  );
}

/** Codes and assertions that nobody can use any more; codes are kept for a day. */
export async function prunePairing(tx: Tx, limit: number): Promise<number> {
  const codes = await tx.execute(
    `DELETE FROM pairing_codes WHERE id IN (SELECT id FROM pairing_codes
      WHERE expires_at < clock_timestamp() - interval '1 day' LIMIT $1 FOR UPDATE SKIP LOCKED)`,
    [limit],
  );
  const assertions = await tx.execute(
    `DELETE FROM agent_assertions WHERE (agent_id, jti) IN (SELECT agent_id, jti FROM agent_assertions
      WHERE expires_at < clock_timestamp() LIMIT $1 FOR UPDATE SKIP LOCKED)`,
    [limit],
  );
  return Math.max(codes, assertions);
}
