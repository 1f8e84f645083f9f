import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { RequestContext } from "@muster/broker/broker";
import type { Database, Tx } from "@muster/database/database";
import { callerOf } from "../caller.ts";
import type { VmOpsMetrics } from "../metrics.ts";
import type { Hints } from "../output/hints.ts";
import { keyOf, lockCommands, transitionOf, writeTransitions } from "./store.ts";
import type { CommandKey, Written } from "./store.ts";
import { lockTargets } from "./store-accept.ts";

type Contract = typeof vmOpsRequests.replayCommand;

export interface ReplayParts {
  readonly database: Pick<Database, "transaction">;
  readonly metrics: VmOpsMetrics;
  readonly hints: Hints;
}

/** Puts a dead-lettered command back as a new attempt that may wait as long as the first one could. */
export async function replayCommand(
  parts: ReplayParts,
  { command_id: id, dead_letter_id: deadLetterId }: PayloadOf<Contract>,
  context: RequestContext,
): Promise<ReplyInputOf<Contract>> {
  const { tenant_id: tenantId, subject } = callerOf(context, "admin");
  const { row, life } = await parts.database.transaction({ tenants: [tenantId] }, (tx) =>
    replay(tx, { tenantId, id }, subject, deadLetterId),
  );
  parts.hints.changed(id);
  parts.metrics.transitions.inc({ from: row.state, to: life.state, reason: life.reason });
  return { command_id: id, attempt: life.attempt, state: life.state };
}

async function replay(tx: Tx, key: CommandKey, actor: string, deadLetterId: string): Promise<Written> {
  // The VM first, as everywhere: it must not retire between the look and the write.
  const [known] = await tx.query<{ vm_uuid: string }>(
    "SELECT vm_uuid FROM commands WHERE tenant_id = $1 AND id = $2",
    [key.tenantId, key.id],
  );
  if (known === undefined) throw new MusterError("COMMAND_NOT_FOUND");
  const [vm] = await lockTargets(tx, [{ tenantId: key.tenantId, vmUuid: known.vm_uuid }], "shared");
  const row = (await lockCommands(tx, [key])).get(keyOf(key));
  if (row === undefined) throw new MusterError("COMMAND_NOT_FOUND");
  const life = transitionOf(row, { event: "replay" });
  if (life === undefined) throw new MusterError("NOT_REPLAYABLE");
  if (vm === undefined || vm.state === "retired") throw new MusterError("VM_RETIRED");
  const written: Written = {
    row,
    life,
    actor,
    deadLetterId,
    expiresInMs: row.expires_in_ms,
    details: { dead_letter_id: deadLetterId },
  };
  await writeTransitions(tx, [written]);
  return written;
}
