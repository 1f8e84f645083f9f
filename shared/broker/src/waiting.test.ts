import { expect } from "chai";
import { attemptAfterLoss, fullJitterMs } from "./waiting.ts";

const longest = (attempt: number): number => fullJitterMs(attempt, 100, 15_000, () => 1);

describe("the backoff after a loss", () => {
  it("grows while what comes up is lost at once, to its bound", () => {
    const waits: number[] = [];
    for (let attempt = 0, n = 0; n < 10; n++) {
      attempt = attemptAfterLoss(attempt, 50);
      waits.push(longest(attempt));
    }
    expect(waits).to.deep.equal([200, 400, 800, 1_600, 3_200, 6_400, 12_800, 15_000, 15_000, 15_000]);
  });

  it("starts anew after what was up for a while", () => {
    expect(longest(attemptAfterLoss(9, 60_000))).to.equal(100);
  });
});
