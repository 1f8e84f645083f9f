import { vmQueue } from "@muster/contracts/topology";
import type { EventHandlers } from "@muster/broker/broker";
import { MusterError } from "@muster/contracts/errors";
import type { reliabilityCommands } from "@muster/contracts/mesh";
import type { Tx } from "@muster/database/database";
import type { DeadLetterAlarm } from "./alarm.ts";
import { insertCommand, replayerOf, settle } from "./store.ts";

type Handlers = EventHandlers<typeof reliabilityCommands.events, Tx>;

/** Commands that vm-ops gave up, written down; and those it has put back, settled. */
export function commandHandlers({ alarm }: { alarm: DeadLetterAlarm }): Handlers {
  return {
    async commandDeadLettered(tx, events) {
      for (const { id, payload, context } of events) {
        const { tenantId } = context;
        if (tenantId === undefined) throw new MusterError("CONTRACT_VIOLATION", "a command without a tenant");
        const queue = vmQueue(tenantId, payload.vm_uuid);
        const added = await insertCommand(tx, id, tenantId, queue, payload);
        if (added > 0) alarm.recorded(queue, payload.reason, payload.action);
      }
    },
    async commandReplayed(tx, events) {
      for (const { payload } of events) {
        const actor = await replayerOf(tx, payload.dead_letter_id);
        if (actor === undefined) continue;
        const note = `attempt ${payload.attempt} of command ${payload.command_id}`;
        await settle(tx, payload.dead_letter_id, { state: "replayed", actor, note });
      }
    },
  };
}
