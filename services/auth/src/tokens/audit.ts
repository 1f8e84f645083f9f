import type { Tx } from "@muster/database/database";
import { recordAudit } from "../audit/store.ts";

/** `actor` is the account, where the token or key itself says so much; `auth` where it was not the account's doing. */
export function auditFamily(
  tx: Tx,
  family: { readonly tenantId: string; readonly id: string; readonly actor: string },
  what: "issued" | "revoked" | "reuse-detected",
  details: Readonly<Record<string, string>>,
): Promise<void> {
  return recordAudit(tx, {
    tenantId: family.tenantId,
    actor: family.actor,
    action: `refresh-family.${what}`,
    subject: `refresh-family:${family.id}`,
    details,
  });
}
