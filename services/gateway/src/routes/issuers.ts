import { authRequests } from "@muster/contracts/auth";
import type { routes } from "@muster/contracts/routes";
import type { Handlers } from "@muster/http/handler";
import type { Ask } from "../asking.ts";
import { createdHeaders } from "./vms.ts";

type Own = Pick<Handlers<typeof routes>, "createIssuer" | "listIssuers" | "getIssuer" | "removeIssuer">;

/** Outside issuers whose tokens a tenant takes. */
export function issuerHandlers({ ask }: { readonly ask: Ask }): Own {
  return {
    async createIssuer(request) {
      const payload = { issuer: request.body, idempotency_key: request.idempotencyKey };
      const { issuer, replayed } = await ask(authRequests.createIssuer, payload, request);
      return { data: { issuer }, headers: createdHeaders(`/api/v1/auth/issuers/${issuer.id}`, replayed) };
    },

    async listIssuers(request) {
      const { items, next_cursor } = await ask(authRequests.listIssuers, request.query, request);
      return { data: { issuers: items }, meta: { next_cursor } };
    },

    async getIssuer(request) {
      return { data: { issuer: await ask(authRequests.getIssuer, request.params, request) } };
    },

    async removeIssuer(request) {
      return { data: { issuer: await ask(authRequests.removeIssuer, request.params, request) } };
    },
  };
}
