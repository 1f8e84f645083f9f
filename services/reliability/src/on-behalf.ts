import type { Broker, RequestContext } from "@muster/broker/broker";
import type { WorkContext } from "@muster/contracts/envelope";
import { isShadowTenant } from "@muster/contracts/principal";
import { readTrusted } from "@muster/identity/claims";
import type { MeshSigner } from "@muster/identity/mesh-signer";
import { vouching } from "@muster/identity/vouch";
import type { Logger } from "@muster/telemetry/logger";

type Context = WorkContext & Pick<RequestContext, "principal">;

/**
 * Asks another owner as whoever asked us: by a token of our own for that request, since the one that we were given is for ours
 * alone. A shadow goes on as one: without a token.
 */
export function askOnBehalf(
  broker: Pick<Broker, "request">,
  o: { readonly signer: Pick<MeshSigner, "mint" | "refused">; readonly logger: Logger },
): Broker["request"] {
  return (contract, payload, context, options) => {
    const { principal, identity: token }: Context = context;
    const by = (identity: string | undefined) =>
      broker.request(contract, payload, { ...context, identity }, options);
    const isNobody = principal === undefined || token === undefined || isShadowTenant(principal.tenant_id);
    if (contract.identity === "none" || isNobody) return by(undefined);
    return vouching(o, { principal, origin: () => readTrusted(token).origin }, contract, by);
  };
}
