import type { VmView } from "@muster/contracts/commands";
import { MusterError } from "@muster/contracts/errors";
import { vmRetired } from "@muster/contracts/vm-ops";
import { prepareEvent } from "@muster/broker/prepare";
import type { RequestContext } from "@muster/broker/broker";
import type { Database, Tx } from "@muster/database/database";
import { callerOf } from "../caller.ts";
import { lockCommands, transitionOf, writeTransitions } from "../commands/store.ts";
import type { Written } from "../commands/store.ts";
import type { VmOpsMetrics } from "../metrics.ts";
import type { Hints } from "../output/hints.ts";
import type { VmQueues } from "./queues.ts";
import { activeCommandIds, findVm, lockVm, markRetired, viewOf } from "./store.ts";

export interface RetireParts {
  readonly database: Pick<Database, "transaction">;
  readonly queues: Pick<VmQueues, "nudge">;
  readonly metrics: VmOpsMetrics;
  readonly hints: Hints;
}

/** What waits ends as target_gone, what runs is told to stop, the queue goes afterwards. Again, it changes nothing. */
export async function retireVm(parts: RetireParts, vmUuid: string, context: RequestContext): Promise<VmView> {
  const { tenant_id: tenantId, subject } = callerOf(context, "admin");
  const { view, written } = await parts.database.transaction({ tenants: [tenantId] }, async (tx) => {
    // The VM first: until the end nothing is accepted or claimed for it.
    const locked = await lockVm(tx, tenantId, vmUuid);
    if (locked === undefined) throw new MusterError("VM_NOT_FOUND");
    const ended = locked.state === "active" ? await retire(tx, { tenantId, vmUuid }, subject, context) : [];
    const row = await findVm(tx, tenantId, vmUuid);
    if (row === undefined) throw new MusterError("VM_NOT_FOUND");
    return { view: viewOf(row), written: ended };
  });
  for (const { row, life } of written) {
    parts.hints.changed(row.id);
    parts.metrics.transitions.inc({ from: row.state, to: life.state, reason: life.reason });
  }
  parts.queues.nudge();
  return view;
}

async function retire(
  tx: Tx,
  vm: { tenantId: string; vmUuid: string },
  actor: string,
  context: RequestContext,
): Promise<Written[]> {
  const ids = await activeCommandIds(tx, vm.tenantId, vm.vmUuid);
  const rows = await lockCommands(tx, ids.map((id) => ({ tenantId: vm.tenantId, id }))); // prettier-ignore
  const written = [...rows.values()].flatMap((row): Written[] => {
    const life = transitionOf(row, { event: "target_gone" });
    return life === undefined ? [] : [{ row, life, actor, rule: "target_gone" }];
  });
  await writeTransitions(tx, written);
  await markRetired(tx, vm.tenantId, vm.vmUuid);
  const row = await findVm(tx, vm.tenantId, vm.vmUuid);
  tx.publish(
    prepareEvent(
      vmRetired,
      { vm_uuid: vm.vmUuid, epoch: row?.epoch ?? 1, at: (row?.retired_at ?? new Date()).toISOString() },
      { context, tenantId: vm.tenantId, subject: vm.vmUuid },
    ),
  );
  return written;
}
