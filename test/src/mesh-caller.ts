import { openBroker, type Broker } from "@muster/broker/broker";
import { authRequests } from "@muster/contracts/auth";
import type { PayloadInputOf, ReplyOf, RequestContract, Service } from "@muster/contracts/define";
import { uuidv7 } from "@muster/contracts/ids";
import type { Principal } from "@muster/contracts/principal";
import { loginName } from "@muster/contracts/senders";
import { readTrusted, type Caller } from "@muster/identity/claims";
import { openMeshSigner } from "@muster/identity/mesh-signer";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import type { Vhost } from "@muster/testing/vhost";

/** Asks on the mesh as a service does: by its login, with tokens of its own for whom it asks. */
export interface MeshCaller {
  readonly broker: Broker;
  /** For somebody as he is now. */
  tokenFor(principal: Principal, contract: RequestContract): Promise<string>;
  ask<C extends RequestContract>(
    contract: C,
    payload: PayloadInputOf<C>,
    principal: Principal,
    options?: { timeoutMs?: number },
  ): Promise<ReplyOf<C>>;
  /** For whoever holds this access token, as a gateway that has taken it once and has heard of nothing since. */
  askBy<C extends RequestContract>(
    accessToken: string,
    contract: C,
    payload: PayloadInputOf<C>,
  ): Promise<ReplyOf<C>>;
  close(): Promise<void>;
}

const asOfNow = (principal: Principal): Caller => ({
  principal,
  origin: () => ({ asOfMs: Date.now(), via: [] }),
});

export async function openMeshCaller(vhost: Vhost, service: Service = "gateway"): Promise<MeshCaller> {
  const common = {
    logger: openLogger({ service: "caller", level: "silent" }),
    metrics: createMetrics({ service: "caller" }),
  };
  const url = await vhost.urlAs(loginName(service));
  const broker = await openBroker({ ...common, url, name: `caller ${service}`, service });
  const signer = openMeshSigner({
    ...{ ...common, service },
    register: (key) => broker.request(authRequests.registerMeshKey, key, { correlationId: uuidv7() }),
  });
  const known = new Map<string, Caller>();
  const holderOf = (accessToken: string): Caller => {
    const { principal, origin } = readTrusted(accessToken);
    const caller = known.get(accessToken) ?? { principal, origin: () => origin };
    known.set(accessToken, caller);
    return caller;
  };
  return {
    broker,
    tokenFor: (principal, contract) => signer.mint(asOfNow(principal), contract),
    async ask(contract, payload, principal, options) {
      const identity = await signer.mint(asOfNow(principal), contract);
      return broker.request(contract, payload, { correlationId: uuidv7(), identity }, options);
    },
    async askBy(accessToken, contract, payload) {
      const identity = await signer.mint(holderOf(accessToken), contract);
      return broker.request(contract, payload, { correlationId: uuidv7(), identity });
    },
    async close() {
      await signer.close();
      await broker.close();
    },
  };
}
