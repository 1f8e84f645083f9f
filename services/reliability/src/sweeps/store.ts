import type { Principal } from "@muster/contracts/principal";
import type { Database } from "@muster/database/database";
import { scopeOf } from "../access.ts";

export interface SweepAudit {
  readonly runId: string;
  readonly action: "requested" | "answered" | "failed";
  readonly details: Record<string, unknown>;
}

/** One more row of who asked for which sweep and what came of it. */
export async function addSweepAudit(database: Database, caller: Principal, entry: SweepAudit): Promise<void> {
  await database.transaction(scopeOf(caller), (tx) =>
    tx.execute(
      "INSERT INTO sweep_audit (run_id, tenant_id, actor, action, details) VALUES ($1, $2, $3, $4, $5)",
      [entry.runId, caller.tenant_id, caller.subject, entry.action, JSON.stringify(entry.details)],
    ),
  );
}
