import { reliabilityRequests } from "@muster/contracts/reliability";
import type { routes } from "@muster/contracts/routes";
import type { Handlers } from "@muster/http/handler";
import type { Ask } from "../asking.ts";

type Own = Pick<
  Handlers<typeof routes>,
  | "listDeadLetters"
  | "getDeadLetter"
  | "replayDeadLetter"
  | "replayDeadLetters"
  | "discardDeadLetter"
  | "listAgents"
  | "runSweep"
>;

export function reliabilityHandlers({ ask }: { ask: Ask }): Own {
  return {
    async listDeadLetters(request) {
      const { limit, cursor, ...filter } = request.query;
      const payload = { filter, limit, cursor };
      const { items, next_cursor } = await ask(reliabilityRequests.listDeadLetters, payload, request);
      return { data: { dead_letters: items }, meta: { next_cursor } };
    },

    async getDeadLetter(request) {
      const payload = { dead_letter_id: request.params.id };
      return { data: { dead_letter: await ask(reliabilityRequests.getDeadLetter, payload, request) } };
    },

    async replayDeadLetter(request) {
      const payload = { dead_letter_id: request.params.id };
      return { data: await ask(reliabilityRequests.replayDeadLetter, payload, request) };
    },

    async replayDeadLetters(request) {
      const { limit, ...filter } = request.body;
      return { data: await ask(reliabilityRequests.replayDeadLetters, { filter, limit }, request) };
    },

    async discardDeadLetter(request) {
      const payload = { dead_letter_id: request.params.id, reason: request.body.reason };
      return { data: { dead_letter: await ask(reliabilityRequests.discardDeadLetter, payload, request) } };
    },

    async listAgents(request) {
      const { items, next_cursor } = await ask(reliabilityRequests.listAgents, request.query, request);
      return { data: { agents: items }, meta: { next_cursor } };
    },

    async runSweep(request) {
      return { data: await ask(reliabilityRequests.runSweep, request.body, request) };
    },
  };
}
