import type { Broker } from "@muster/broker/broker";
import { authRequests } from "@muster/contracts/auth";
import { MusterError } from "@muster/contracts/errors";
import { expect } from "chai";
import { askBy } from "./asking.ts";

function setup(state: Broker["state"]) {
  const asked: unknown[] = [];
  const request: Broker["request"] = (contract) => {
    asked.push(contract.name);
    return Promise.reject(new MusterError("INTERNAL"));
  };
  return { ask: askBy({ state, request }), asked };
}

describe("asking an owner", () => {
  it("is refused at once, with a time to retry, while the broker cannot take it", async () => {
    const expected = {
      blocked: "BACKPRESSURE",
      reconnecting: "DEPENDENCY_UNAVAILABLE",
      closed: "DRAINING",
    } as const;
    for (const state of ["blocked", "reconnecting", "closed"] as const) {
      const { ask, asked } = setup(state);
      const error: unknown = await ask(authRequests.getKeys, {}, { context: { correlationId: "c" } }).catch(
        (refusal: unknown) => refusal,
      );
      expect(error).to.be.instanceOf(MusterError).and.include({ code: expected[state], status: 503 });
      expect(error).to.have.property("retryAfterMs").that.is.above(0);
      expect(asked).to.deep.equal([]);
    }
  });
});
