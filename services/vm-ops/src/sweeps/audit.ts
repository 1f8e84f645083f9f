import type { ReplyInputOf } from "@muster/contracts/define";
import type { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { Database } from "@muster/database/database";

/** Counts stop here: what must be 0 and is this much is bad enough. */
const countMax = 10_000;

// Queued without a doorbell in the outbox: the two are written together, and the confirm changes both together.
const lostText = `SELECT count(*)::integer AS count FROM (
    SELECT 1 FROM commands c WHERE c.phase = 'waiting' AND c.state = 'queued'
      AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.message_id = c.id || '.' || c.attempt || '.run')
    UNION ALL
    SELECT 1 FROM commands c WHERE c.phase = 'waiting' AND c.state <> 'awaiting_approval'
      AND c.expires_at < now() - interval '1 hour'
    UNION ALL
    SELECT 1 FROM commands c WHERE c.phase = 'running' AND c.lease_renewed_at < now() - interval '1 day'
    LIMIT ${countMax}) lost`;

// A day of history: the BRIN index reads no more.
const doubleText = `SELECT count(*)::integer AS count FROM (
    SELECT 1 FROM command_events WHERE at > now() - interval '1 day' AND rule = 'claim_granted'
    GROUP BY tenant_id, command_id, attempt HAVING count(*) > 1 LIMIT ${countMax}) twice`;

const outboxText = `SELECT count(*)::integer AS count FROM (
    SELECT 1 FROM outbox WHERE created_at < now() - interval '1 minute' LIMIT ${countMax}) stale`;

/** Counts that must be 0, each over one snapshot. */
export async function auditCommands(
  database: Pick<Database, "transaction">,
): Promise<ReplyInputOf<typeof vmOpsRequests.auditVmOps>> {
  return database.transaction(
    "system",
    async (tx) => {
      const counted = async (text: string): Promise<number> =>
        (await tx.query<{ count: number }>(text))[0]?.count ?? 0;
      return {
        lost_commands: await counted(lostText),
        double_starts: await counted(doubleText),
        outbox_stale: await counted(outboxText),
      };
    },
    { readOnly: true },
  );
}
