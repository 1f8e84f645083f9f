import type { EventHandlers } from "@muster/broker/broker";
import type { secretsCommands } from "@muster/contracts/mesh";
import type { Inbox } from "@muster/database/inbox";
import type { Tx } from "@muster/database/database";
import { endFollowUps } from "../rotations/ended.ts";
import type { FollowUps } from "../rotations/send.ts";
import { endLeases } from "./store.ts";

type Handlers = EventHandlers<typeof secretsCommands.events, Tx>;

/** Nothing is given by the leases of a command that has ended; a rotation that it followed from goes on. */
export function hearingEnds(
  inbox: Inbox,
  followUps: Pick<FollowUps, "wake">,
): { readonly runOnce: Inbox["runOnce"]; readonly handlers: Handlers } {
  let resent = false;
  const handlers: Handlers = {
    async commandFinished(tx, events) {
      const ended = events.flatMap(({ payload: { command_id: commandId, ...rest }, context }) => {
        const { tenantId } = context;
        return tenantId === undefined ? [] : [{ tenantId, commandId, ...rest }];
      });
      if (ended.length === 0) return;
      await endLeases(tx, ended);
      const ends = ended.map((one) => ({ ...one, succeeded: one.state === "succeeded" }));
      if (await endFollowUps(tx, ends)) resent = true;
    },
  };
  return {
    handlers,
    async runOnce(messages, work) {
      const done = await inbox.runOnce(messages, work);
      // What the way back needs is committed by now.
      if (resent) followUps.wake();
      resent = false;
      return done;
    },
  };
}
