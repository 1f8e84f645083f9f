import type { Broker } from "@muster/broker/broker";
import { apiKeyPattern } from "@muster/contracts/auth";
import type { PayloadInputOf, ReplyOf, RequestContract } from "@muster/contracts/define";
import type { WorkContext } from "@muster/contracts/envelope";
import { MusterError } from "@muster/contracts/errors";
import type { Principal } from "@muster/contracts/principal";
import { readTrusted } from "@muster/identity/claims";
import type { MeshSigner } from "@muster/identity/mesh-signer";
import { vouching } from "@muster/identity/vouch";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { Sparing } from "@muster/telemetry/sparing";
import type { ApiKeys } from "./identity/api-keys.ts";

export interface Asked {
  readonly context: WorkContext;
  readonly signal?: AbortSignal;
  /** For whom it is asked. */
  readonly principal?: Principal | undefined;
  /** What the caller sent; undefined where nobody did. */
  readonly bearer?: string | undefined;
}

/** Asks the owner of a request, as the caller. Throws MusterError. */
export type Ask = <C extends RequestContract>(
  contract: C,
  payload: PayloadInputOf<C>,
  from: Asked,
  timeoutMs?: number,
) => Promise<ReplyOf<C>>;

const retryAfterMs = 1_000;

/** A caller over HTTP is told at once that the broker is away: it can retry, and a place here is dear. */
export function askBy(broker: Pick<Broker, "request" | "state">): Ask {
  return (contract, payload, { context, signal }, timeoutMs) => {
    const { state } = broker;
    if (state !== "connected") {
      const code =
        state === "blocked" ? "BACKPRESSURE" : state === "closed" ? "DRAINING" : "DEPENDENCY_UNAVAILABLE";
      return Promise.reject(new MusterError(code, undefined, { retryAfterMs }));
    }
    return broker.request(contract, payload, context, {
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
      ...(signal === undefined ? {} : { signal }),
    });
  };
}

/**
 * The same with a token of this gateway's for that request and caller, in place of the one that the caller brought: no access
 * token goes onto the mesh. A shadow has none.
 */
export function askVouching(
  ask: Ask,
  o: { readonly signer: Pick<MeshSigner, "mint" | "refused">; readonly logger: Logger },
): Ask {
  return (contract, payload, from, timeoutMs) => {
    const { context, principal } = from;
    const by = (identity: string | undefined) =>
      ask(contract, payload, { ...from, context: { ...context, identity } }, timeoutMs);
    const { identity: token } = context;
    const isShadow = token === undefined;
    if (contract.identity === "none" || isShadow || principal === undefined) return by(undefined);
    return vouching(o, { principal, origin: () => readTrusted(token).origin }, contract, by);
  };
}

/**
 * The same, once more where the owner refuses whom an API key was exchanged for: his account may have changed a moment ago.
 * What was refused had no effect.
 */
export function askAgain(ask: Ask, apiKeys: Pick<ApiKeys, "renewed">): Ask {
  return async (contract, payload, from, timeoutMs) => {
    try {
      return await ask(contract, payload, from, timeoutMs);
    } catch (error) {
      const { identity } = from.context;
      const byKey = from.bearer !== undefined && apiKeyPattern.test(from.bearer);
      const refused = error instanceof MusterError && error.code === "INVALID_OR_MISSING_BEARER_TOKEN";
      if (!refused || !byKey || identity === undefined) throw error;
      const renewed = await apiKeys.renewed(from.bearer, identity);
      if (renewed === undefined) throw error;
      const { principal, token } = renewed;
      const again = { ...from, principal, context: { ...from.context, identity: token } };
      return await ask(contract, payload, again, timeoutMs);
    }
  };
}

/**
 * The same, telling where an owner refuses for want of a token a shadow that this gateway let through: the owner runs
 * AUTH_MODE=enforced, and this gateway does not.
 */
export function askInShadow(ask: Ask, o: { readonly logger: Logger; readonly metrics: Metrics }): Ask {
  const mismatches = o.metrics.counter({
    name: "muster_auth_mode_mismatch_total",
    help: "Requests of shadows that an owner refused because it runs AUTH_MODE=enforced.",
    labels: ["owner"],
  });
  const lines = new Sparing({ linesMax: 1 });
  return async (contract, payload, from, timeoutMs) => {
    try {
      return await ask(contract, payload, from, timeoutMs);
    } catch (error) {
      const { owner } = contract;
      const refused = error instanceof MusterError && error.code === "MISSING_BEARER_TOKEN";
      if (refused && contract.identity === "caller" && from.context.identity === undefined) {
        mismatches.inc({ owner });
        if (lines.next(owner) !== undefined) {
          o.logger.error(
            { owner },
            "AUTH_MODE differs: it is shadow here and enforced there; set all services alike",
          );
        }
      }
      throw error;
    }
  };
}
