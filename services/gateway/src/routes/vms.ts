import type { routes } from "@muster/contracts/routes";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { Handlers } from "@muster/http/handler";
import type { Ask } from "../asking.ts";

type Own = Pick<Handlers<typeof routes>, "registerVm" | "listVms" | "getVm" | "updateVm" | "retireVm">;

export function vmHandlers({ ask }: { ask: Ask }): Own {
  return {
    async registerVm(request) {
      const payload = { vm: request.body, idempotency_key: request.idempotencyKey };
      const { vm, replayed } = await ask(vmOpsRequests.registerVm, payload, request);
      return { data: { vm }, headers: createdHeaders(`/api/v1/vms/${vm.vm_uuid}`, replayed) };
    },

    async listVms(request) {
      const { labels, ...rest } = request.query;
      const payload = { ...rest, labels: labelsOf(labels) };
      const { items, next_cursor } = await ask(vmOpsRequests.listVms, payload, request);
      return { data: { vms: items }, meta: { next_cursor } };
    },

    async getVm(request) {
      return { data: { vm: await ask(vmOpsRequests.getVm, request.params, request) } };
    },

    async updateVm(request) {
      const payload = { ...request.params, change: request.body };
      return { data: { vm: await ask(vmOpsRequests.updateVm, payload, request) } };
    },

    async retireVm(request) {
      return { data: { vm: await ask(vmOpsRequests.retireVm, request.params, request) } };
    },
  };
}

/** Where the new thing is; and whether this is the answer of an earlier request with the same key. */
export function createdHeaders(location: string, replayed: boolean): Readonly<Record<string, string>> {
  return replayed ? { location, "idempotency-replayed": "true" } : { location };
}

/** `role=web,env=prod` */
export function labelsOf(selector: string | undefined): Record<string, string> {
  const pairs = (selector ?? "").split(",").filter((pair) => pair !== "");
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf("=");
      return [pair.slice(0, at), pair.slice(at + 1)] as const;
    }),
  );
}
