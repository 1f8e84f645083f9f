import type { TenantView } from "@muster/contracts/accounts";
import type { Database, Tx } from "@muster/database/database";
import { DataTypes } from "sequelize";
import type { Model, ModelStatic } from "sequelize";
import { z } from "zod";

export interface TenantStore {
  /** False when it existed. */
  addTenant(tx: Tx, tenantId: string): Promise<boolean>;
  addUser(
    tx: Tx,
    user: { id: string; tenantId: string; email: string; roles: readonly string[] },
  ): Promise<boolean>;
  findUser(tx: Tx, tenantId: string, email: string): Promise<{ id: string } | undefined>;
}

export function tenantStore(database: Database): TenantStore {
  const principals: ModelStatic<Model> = database.sequelize.define("principals", {
    id: { type: DataTypes.UUID, primaryKey: true },
    tenant_id: DataTypes.TEXT,
    email: DataTypes.TEXT,
  });

  return {
    async addTenant(tx, tenantId) {
      const text = "INSERT INTO tenants (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING tenant_id";
      return (await tx.query(text, [tenantId])).length > 0;
    },

    async addUser(tx, user) {
      const rows = await tx.query(
        `INSERT INTO principals (id, tenant_id, kind, email, name, roles) VALUES ($1, $2, 'user', $3, $3, $4)
         ON CONFLICT DO NOTHING RETURNING id`,
        [user.id, user.tenantId, user.email, user.roles],
      );
      return rows.length > 0;
    },

    async findUser(tx, tenantId, email) {
      const found = await principals.findOne({
        where: { tenant_id: tenantId, email },
        attributes: ["id"],
        transaction: tx.sequelize,
      });
      return found === null ? undefined : z.object({ id: z.string() }).parse(found.get());
    },
  };
}

const tenantRow = z.object({
  tenant_id: z.string(),
  state: z.enum(["active", "suspended"]),
  created_at: z.date(),
});
export type TenantRow = z.output<typeof tenantRow>;

export const tenantViewOf = (row: TenantRow): TenantView => ({
  ...row,
  created_at: row.created_at.toISOString(),
});

/** Undefined when there is one of this id. */
export async function insertTenant(tx: Tx, tenantId: string): Promise<TenantRow | undefined> {
  const rows = await tx.query(
    "INSERT INTO tenants (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING tenant_id, state, created_at",
    [tenantId],
  );
  return rows[0] === undefined ? undefined : tenantRow.parse(rows[0]);
}

export async function listTenantRows(tx: Tx, tenantId: string): Promise<TenantRow[]> {
  const rows = await tx.query("SELECT tenant_id, state, created_at FROM tenants WHERE tenant_id = $1", [
    tenantId,
  ]);
  return rows.map((row) => tenantRow.parse(row));
}
