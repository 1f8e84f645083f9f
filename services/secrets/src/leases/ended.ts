import type { EventHandlers } from "@muster/broker/broker";
import type { secretsCommands } from "@muster/contracts/mesh";
import type { Tx } from "@muster/database/database";
import { endLeases } from "./store.ts";

type Handlers = EventHandlers<typeof secretsCommands.events, Tx>;

/** Nothing is given by the leases of a command that has ended. */
export const endedCommands: Handlers = {
  async commandFinished(tx, events) {
    const ended = events.flatMap(({ payload, context: { tenantId } }) =>
      tenantId === undefined ? [] : [{ tenantId, commandId: payload.command_id, attempt: payload.attempt }],
    );
    if (ended.length > 0) await endLeases(tx, ended);
  },
};
