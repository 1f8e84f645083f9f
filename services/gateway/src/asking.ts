import type { Broker } from "@muster/broker/broker";
import type { PayloadInputOf, ReplyOf, RequestContract } from "@muster/contracts/define";
import type { WorkContext } from "@muster/contracts/envelope";
import { MusterError } from "@muster/contracts/errors";

export type Asked = { readonly context: WorkContext; readonly signal?: AbortSignal };

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
