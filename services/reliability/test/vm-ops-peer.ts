import type { Broker } from "@muster/broker/broker";
import { prepareEvent } from "@muster/broker/prepare";
import type { PayloadOf, ReplyOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { commandDeadLettered, commandReplayed, vmOpsRequests } from "@muster/contracts/vm-ops";
import { readTrusted, type Origin } from "@muster/identity/claims";
import { openPeer, type Ground } from "./setup.ts";

type Asked = PayloadOf<typeof vmOpsRequests.sweepCommands>;
type Report = ReplyOf<typeof vmOpsRequests.sweepCommands>;
const { sweepCommands, auditVmOps, pruneVmOps, replayCommand, getCommand } = vmOpsRequests;

export interface VmOpsScript {
  sweep: (asked: Asked, nth: number) => Report | Promise<Report>;
  audit: () => ReplyOf<typeof auditVmOps>;
  prune: (nth: number) => ReplyOf<typeof pruneVmOps>;
  replay: (asked: PayloadOf<typeof replayCommand>) => Promise<ReplyOf<typeof replayCommand>>;
  readonly swept: Asked[];
  readonly pruned: PayloadOf<typeof pruneVmOps>[];
  readonly replayed: (PayloadOf<typeof replayCommand> & { by: string; origin: Origin | undefined })[];
}

export const emptyReport = (dryRun = false): Report => ({
  dry_run: dryRun,
  rules: [],
  more: false,
  amnesty_ms: 0,
});

/** An owner that answers as a script says: what reliability asks, and nothing of what vm-ops is. */
export async function openVmOpsPeer(
  ground: Ground,
  first: Partial<VmOpsScript> = {},
): Promise<{ broker: Broker; script: VmOpsScript }> {
  const broker = await openPeer(ground, "vm-ops");
  const script: VmOpsScript = {
    sweep: (asked) => emptyReport(asked.dry_run),
    audit: () => ({ lost_commands: 0, double_starts: 0, outbox_stale: 0 }),
    prune: () => ({ removed: 0 }),
    replay: () => Promise.reject(new MusterError("NOT_REPLAYABLE")),
    swept: [],
    pruned: [],
    replayed: [],
    ...first,
  };
  await broker.serve(
    "vm-ops",
    { sweepCommands, auditVmOps, pruneVmOps, replayCommand, getCommand },
    {
      sweepCommands: async (asked) => script.sweep(asked, script.swept.push(asked)),
      auditVmOps: async () => script.audit(),
      pruneVmOps: async (asked) => script.prune(script.pruned.push(asked)),
      replayCommand: (asked, context) => {
        const { principal, identity } = context;
        const origin = identity === undefined ? undefined : readTrusted(identity).origin;
        script.replayed.push({ ...asked, by: principal?.subject ?? "", origin });
        return script.replay(asked);
      },
      getCommand: () => Promise.reject(new MusterError("COMMAND_NOT_FOUND")),
    },
  );
  return { broker, script };
}

interface About {
  readonly tenantId: string;
  readonly commandId: string;
  readonly vmUuid: string;
}

const factOf = (about: About, attempt: number) => ({
  command_id: about.commandId,
  vm_uuid: about.vmUuid,
  action: "exec" as const,
  attempt,
  at: new Date().toISOString(),
});

export const deadLetteredEvent = (about: About, id = uuidv7()) =>
  prepareEvent(
    commandDeadLettered,
    {
      ...factOf(about, 3),
      reason: "dispatch_requeues_exhausted",
      rule: "unclaimed",
      requeues: 2,
      correlation_id: "c-1",
      last_error: null,
    },
    { id, context: { correlationId: "c-1" }, tenantId: about.tenantId },
  );

export const replayedEvent = (about: About & { deadLetterId: string }) =>
  prepareEvent(
    commandReplayed,
    { ...factOf(about, 4), dead_letter_id: about.deadLetterId },
    { context: { correlationId: "c-1" }, tenantId: about.tenantId },
  );
