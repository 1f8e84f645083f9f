import type { routes } from "@muster/contracts/routes";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { Handlers } from "@muster/http/handler";
import type { Ask } from "../asking.ts";
import { createdHeaders } from "./vms.ts";

type Own = Pick<
  Handlers<typeof routes>,
  "acceptCommand" | "listCommands" | "getCommand" | "listCommandEvents" | "cancelCommand"
>;

export function commandHandlers({ ask }: { ask: Ask }): Own {
  return {
    async acceptCommand(request) {
      const payload = { command: request.body, idempotency_key: request.idempotencyKey };
      const { command, replayed } = await ask(vmOpsRequests.acceptCommand, payload, request);
      const headers = createdHeaders(`/api/v1/vm-ops/commands/${command.id}`, replayed);
      return { data: { command }, headers };
    },

    async listCommands(request) {
      const { limit, cursor, state, ...filter } = request.query;
      const payload = { filter: { ...filter, states: state }, limit, cursor };
      const { items, next_cursor } = await ask(vmOpsRequests.listCommands, payload, request);
      return { data: { commands: items }, meta: { next_cursor } };
    },

    async getCommand(request) {
      const payload = { command_id: request.params.id };
      return { data: { command: await ask(vmOpsRequests.getCommand, payload, request) } };
    },

    async listCommandEvents(request) {
      const payload = { command_id: request.params.id, ...request.query };
      const { items, next_cursor } = await ask(vmOpsRequests.listCommandEvents, payload, request);
      return { data: { events: items }, meta: { next_cursor } };
    },

    async cancelCommand(request) {
      const payload = { command_id: request.params.id, ...request.body };
      return { data: await ask(vmOpsRequests.cancelCommand, payload, request) };
    },
  };
}
