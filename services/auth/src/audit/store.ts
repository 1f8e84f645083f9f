import { uuidv7 } from "@muster/contracts/ids";
import type { Tx } from "@muster/database/database";

export interface AuditEvent {
  /** Null: of the system itself. */
  readonly tenantId: string | null;
  readonly actor: string;
  /** `api-key.created` */
  readonly action: string;
  readonly subject: string;
  /** Never a secret. */
  readonly details?: Readonly<Record<string, string>>;
}

/** In the transaction of what it tells of. */
export async function recordAudit(tx: Tx, event: AuditEvent): Promise<void> {
  await tx.query(
    "INSERT INTO audit_events (id, tenant_id, actor, action, subject, details) VALUES ($1, $2, $3, $4, $5, $6)",
    [uuidv7(), event.tenantId, event.actor, event.action, event.subject, JSON.stringify(event.details ?? {})],
  );
}
