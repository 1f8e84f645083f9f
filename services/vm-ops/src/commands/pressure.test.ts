import { expect } from "chai";
import { pressureOf } from "./pressure.ts";

describe("backpressure", () => {
  const pressure = (brokerState: "connected" | "blocked", depth: number, oldestAgeMs: number) =>
    pressureOf({
      outbox: () => ({ depth, oldestAgeMs }),
      brokerState: () => brokerState,
      depthMax: 100,
      ageMaxMs: 1_000,
    })();

  it("refuses new work while the broker is blocked or the outbox has fallen behind, and says when to retry", () => {
    expect(pressure("connected", 100, 1_000)).to.equal(undefined);
    expect(pressure("blocked", 0, 0))
      .to.have.property("retryAfterMs")
      .above(0);
    expect(pressure("connected", 101, 0)).to.not.equal(undefined);
    expect(pressure("connected", 0, 1_001)).to.not.equal(undefined);
  });
});
