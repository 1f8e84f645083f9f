import { createHash } from "node:crypto";
import { authRequests } from "@muster/contracts/auth";
import { MusterError } from "@muster/contracts/errors";
import { pairingCodePattern } from "@muster/contracts/pairing";
import type { routes } from "@muster/contracts/routes";
import type { agentRoutes } from "@muster/contracts/routes/agents";
import type { Handlers } from "@muster/http/handler";
import type { Ask } from "../asking.ts";
import { authUnavailable } from "../identity/api-keys.ts";
import { createdHeaders } from "./vms.ts";

type Own = Pick<Handlers<typeof routes>, keyof typeof agentRoutes>;

/** Agents' identities. A pairing code is hashed here: none enters a queue. */
export function agentHandlers(deps: { readonly ask: Ask; readonly authTimeoutMs: number }): Own {
  const { ask } = deps;
  return {
    async createPairingCode(request) {
      const payload = { pairing_code: request.body, idempotency_key: request.idempotencyKey };
      const { pairing_code, code, replayed } = await ask(authRequests.createPairingCode, payload, request);
      return { data: { pairing_code, code }, headers: createdHeaders("/api/v1/agents", replayed) };
    },

    async pairAgent(request) {
      const { code, public_key, proof } = request.body;
      const { clientAddress } = request;
      // Whatever can be no code says nothing of any: it need not be asked for.
      if (!pairingCodePattern.test(code)) throw new MusterError("PAIRING_CODE_INVALID");
      const payload = {
        code_sha256: createHash("sha256").update(code).digest("hex"),
        ...{ public_key, proof },
        ...(clientAddress === undefined ? {} : { client_address: clientAddress }),
      };
      return { data: await ask(authRequests.pairAgent, payload, request, deps.authTimeoutMs).catch(refusal) };
    },

    async listPairedAgents(request) {
      const { items, next_cursor } = await ask(authRequests.listPairedAgents, request.query, request);
      return { data: { agents: items }, meta: { next_cursor } };
    },

    async getPairedAgent(request) {
      return { data: { agent: await ask(authRequests.getPairedAgent, request.params, request) } };
    },

    async updatePairedAgent(request) {
      const payload = { ...request.params, change: request.body };
      return { data: { agent: await ask(authRequests.updatePairedAgent, payload, request) } };
    },

    async revokeAgent(request) {
      return { data: { agent: await ask(authRequests.revokeAgent, request.params, request) } };
    },
  };
}

const refusals: ReadonlySet<string> = new Set(["PAIRING_CODE_INVALID", "VALIDATION_FAILED", "RATE_LIMITED"]);

/** That auth cannot be asked says nothing of the code. */
function refusal(error: unknown): never {
  throw error instanceof MusterError && refusals.has(error.code) ? error : authUnavailable(error);
}
