import { MusterError } from "@muster/contracts/errors";
import type { routes } from "@muster/contracts/routes";
import type { secretsRoutes } from "@muster/contracts/routes/secrets";
import { secretsRequests } from "@muster/contracts/secrets";
import type { Handlers } from "@muster/http/handler";
import type { Ask } from "../asking.ts";
import type { Sealing } from "../secrets/sealing.ts";
import { createdHeaders } from "./vms.ts";

type Own = Pick<Handlers<typeof routes>, keyof typeof secretsRoutes>;
type Bindings = "createBinding" | "listBindings" | "removeBinding";
type Leases = "listLeases" | "revokeLease";
type Rotations = "listRotations" | "getRotation";

interface Deps {
  readonly ask: Ask;
  readonly sealing: Sealing;
}

const path = "/api/v1/secrets";

/** Material is sealed before it goes onto the mesh, and opened here alone when somebody may read it back. */
export function secretsHandlers(deps: Deps): Own {
  return {
    ...secretHandlers(deps),
    ...materialHandlers(deps),
    ...bindingHandlers(deps),
    ...leaseHandlers(deps),
    ...rotationHandlers(deps),
  };
}

type Material = "createSecret" | "addSecretVersion" | "rotateSecret" | "readSecret";

function materialHandlers({ ask, sealing }: Deps): Pick<Own, Material> {
  return {
    async createSecret(request) {
      const { material, ...secret } = request.body;
      const { secret: made, replayed } = await sealing.sealing(material, request, (sealed) =>
        ask(
          secretsRequests.createSecret,
          { secret, sealed, idempotency_key: request.idempotencyKey },
          request,
        ),
      );
      return { data: { secret: made }, headers: createdHeaders(`${path}/${made.id}`, replayed) };
    },

    async addSecretVersion(request) {
      const payload = { secret_id: request.params.id, idempotency_key: request.idempotencyKey };
      const { replayed, ...made } = await sealing.sealing(request.body.material, request, (sealed) =>
        ask(secretsRequests.addVersion, { ...payload, sealed }, request),
      );
      return { data: made, headers: createdHeaders(`${path}/${made.secret.id}/versions`, replayed) };
    },

    async rotateSecret(request) {
      const { body } = request;
      const { follow_up, rollback } = body;
      const payload = {
        ...{ secret_id: request.params.id, follow_up, rollback },
        idempotency_key: request.idempotencyKey,
      };
      const rotate = (
        value: { sealed: string } | { generate: Extract<typeof body, { generate: unknown }>["generate"] },
      ) => ask(secretsRequests.rotateSecret, { ...payload, value }, request);
      const { replayed, ...made } =
        "material" in body
          ? await sealing.sealing(body.material, request, (sealed) => rotate({ sealed }))
          : await rotate({ generate: body.generate });
      return { data: made, headers: createdHeaders(`${path}/${made.secret.id}/versions`, replayed) };
    },

    async readSecret(request) {
      const tenantId = request.principal?.tenant_id;
      if (tenantId === undefined) throw new MusterError("MISSING_BEARER_TOKEN");
      const secretId = request.params.id;
      const key = sealing.newRecipient();
      const payload = { secret_id: secretId, version: request.query.version, recipient: { x: key.x } };
      const box = await ask(secretsRequests.readVersion, payload, request);
      const material = await sealing.opened(box, { key, tenantId, secretId });
      return { data: { secret: { secret_id: secretId, version: box.version, material } } };
    },
  };
}

function secretHandlers({ ask }: Deps): Omit<Own, Material | Bindings | Leases | Rotations> {
  return {
    async listSecrets(request) {
      const { items, next_cursor } = await ask(secretsRequests.listSecrets, request.query, request);
      return { data: { secrets: items }, meta: { next_cursor } };
    },

    async getSecret(request) {
      const payload = { secret_id: request.params.id };
      return { data: { secret: await ask(secretsRequests.getSecret, payload, request) } };
    },

    async deleteSecret(request) {
      return { data: await ask(secretsRequests.deleteSecret, { secret_id: request.params.id }, request) };
    },

    async disableSecret(request) {
      return { data: await ask(secretsRequests.disableSecret, { secret_id: request.params.id }, request) };
    },

    async enableSecret(request) {
      const payload = { secret_id: request.params.id };
      return { data: { secret: await ask(secretsRequests.enableSecret, payload, request) } };
    },

    async listSecretVersions(request) {
      const payload = { secret_id: request.params.id, ...request.query };
      const { items, next_cursor } = await ask(secretsRequests.listVersions, payload, request);
      return { data: { versions: items }, meta: { next_cursor } };
    },
  };
}

function bindingHandlers({ ask }: Deps): Pick<Own, Bindings> {
  return {
    async createBinding(request) {
      const payload = { binding: request.body, idempotency_key: request.idempotencyKey };
      const { binding, replayed } = await ask(secretsRequests.createBinding, payload, request);
      return { data: { binding }, headers: createdHeaders(`${path}/bindings/${binding.id}`, replayed) };
    },

    async listBindings(request) {
      const { limit, cursor, ...filter } = request.query;
      const payload = { filter, limit, cursor };
      const { items, next_cursor } = await ask(secretsRequests.listBindings, payload, request);
      return { data: { bindings: items }, meta: { next_cursor } };
    },

    async removeBinding(request) {
      const payload = { binding_id: request.params.id };
      return { data: { binding: await ask(secretsRequests.removeBinding, payload, request) } };
    },
  };
}

function leaseHandlers({ ask }: Deps): Pick<Own, Leases> {
  return {
    async listLeases(request) {
      const { limit, cursor, ...filter } = request.query;
      const { items, next_cursor } = await ask(
        secretsRequests.listLeases,
        { filter, limit, cursor },
        request,
      );
      return { data: { leases: items }, meta: { next_cursor } };
    },

    async revokeLease(request) {
      const payload = { lease_id: request.params.id };
      return { data: { lease: await ask(secretsRequests.revokeLease, payload, request) } };
    },
  };
}

function rotationHandlers({ ask }: Deps): Pick<Own, Rotations> {
  return {
    async listRotations(request) {
      const payload = { secret_id: request.params.id, ...request.query };
      const { items, next_cursor } = await ask(secretsRequests.listRotations, payload, request);
      return { data: { rotations: items }, meta: { next_cursor } };
    },

    async getRotation(request) {
      const { id: secret_id, rotation_id } = request.params;
      const rotation = await ask(secretsRequests.getRotation, { secret_id, rotation_id }, request);
      return { data: { rotation } };
    },
  };
}
