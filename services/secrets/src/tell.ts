import { prepareEvent } from "@muster/broker/prepare";
import type { WorkContext } from "@muster/contracts/envelope";
import { uuidv7 } from "@muster/contracts/ids";
import { secretChanged } from "@muster/contracts/secret-events";
import type { secretChanges } from "@muster/contracts/secret-events";
import type { Tx } from "@muster/database/database";

export interface Told {
  readonly tenantId: string;
  readonly secretId: string;
  readonly change: (typeof secretChanges)[number];
  readonly version: number | null;
  /** `user:<uuid>`, `agent:<uuid>` */
  readonly actor: string;
  /** For the audit alone; never material. */
  readonly details?: Readonly<Record<string, string>>;
}

/** Audit row and event of one change, in the transaction of the change. */
export async function tell(tx: Tx, told: Told, context: WorkContext): Promise<void> {
  const { tenantId, secretId, change, version, actor } = told;
  const details = { ...(version === null ? {} : { version: String(version) }), ...told.details };
  await tx.query(
    "INSERT INTO audit_events (id, tenant_id, actor, action, subject, details) VALUES ($1, $2, $3, $4, $5, $6)",
    [uuidv7(), tenantId, actor, actionOf(change), `secret:${secretId}`, JSON.stringify(details)],
  );
  const payload = { secret_id: secretId, change, version, actor, at: new Date().toISOString() };
  const { correlationId, causationId, traceparent } = context;
  const from = { context: { correlationId, causationId, traceparent }, tenantId };
  tx.publish(prepareEvent(secretChanged, payload, { ...from, subject: secretId }));
}

const actionOf = (change: Told["change"]): string => `secret.${change.replaceAll("_", "-")}`;
