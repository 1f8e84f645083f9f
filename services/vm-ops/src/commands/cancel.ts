import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { RequestContext } from "@muster/broker/broker";
import type { Database, Tx } from "@muster/database/database";
import { callerOf } from "../caller.ts";
import type { VmOpsMetrics } from "../metrics.ts";
import type { Hints } from "../output/hints.ts";
import { decide } from "./machine.ts";
import { lifeOf } from "./row.ts";
import { keyOf, lockCommands, writeTransitions } from "./store.ts";
import type { Written } from "./store.ts";
import { readDetail } from "./store-read.ts";

type Contract = typeof vmOpsRequests.cancelCommand;

export interface CancelParts {
  readonly database: Pick<Database, "transaction">;
  readonly metrics: VmOpsMetrics;
  readonly hints: Hints;
}

/**
 * Before a claim a cancel takes effect at once; after it the agent is told and must confirm. Asked again meanwhile,
 * the answer is again `requested`. Throws COMMAND_NOT_FOUND, or TOO_LATE once the command has ended.
 */
export async function cancelCommand(
  parts: CancelParts,
  { command_id: id, note }: PayloadOf<Contract>,
  context: RequestContext,
): Promise<ReplyInputOf<Contract>> {
  const { tenant_id: tenantId, subject } = callerOf(context, "member");
  const { answer, written } = await parts.database.transaction({ tenants: [tenantId] }, (tx) =>
    cancel(tx, { tenantId, id }, subject, note),
  );
  if (written !== undefined) {
    const { row, life } = written;
    parts.hints.changed(id);
    parts.metrics.transitions.inc({ from: row.state, to: life.state, reason: life.reason });
  }
  return answer;
}

async function cancel(
  tx: Tx,
  key: { tenantId: string; id: string },
  actor: string,
  note: string | undefined,
): Promise<{ answer: ReplyInputOf<Contract>; written: Written | undefined }> {
  const row = (await lockCommands(tx, [key])).get(keyOf(key));
  if (row === undefined) throw new MusterError("COMMAND_NOT_FOUND");
  const decision = decide(lifeOf(row), { event: "cancel" });
  if (decision.kind === "refused" && decision.refusal !== "already") throw new MusterError("TOO_LATE");
  const written: Written | undefined =
    decision.kind === "moved"
      ? { row, life: decision.life, actor, details: note === undefined ? {} : { note } }
      : undefined;
  if (written !== undefined) await writeTransitions(tx, [written]);
  const command = await readDetail(tx, key.tenantId, key.id);
  if (command === undefined) throw new MusterError("COMMAND_NOT_FOUND");
  return {
    answer: { outcome: command.state === "cancelled" ? "cancelled" : "requested", command },
    written,
  };
}
