import { expect } from "chai";
import { median, percentile, resultOf } from "./figure.ts";

describe("a figure", () => {
  const rounds = [
    { ours: 60, raw: 100 },
    { ours: 90, raw: 100 },
    { ours: 50, raw: 100 },
  ];

  it("is the median over the rounds of ours against the baseline of the same round, with its spread", () => {
    const { ratio } = resultOf({ name: "rate", unit: "/s", goal: { atLeast: 0.6 }, rounds });
    expect(ratio).to.deep.equal({ median: 0.6, lowest: 0.5, highest: 0.9 });
  });

  it("reaches its goal at the bound, from above or from below", () => {
    const reached = (goal: { atLeast: number } | { atMost: number }): boolean =>
      resultOf({ name: "rate", unit: "/s", goal, rounds }).reached;
    expect(reached({ atLeast: 0.6 })).to.equal(true);
    expect(reached({ atLeast: 0.61 })).to.equal(false);
    expect(reached({ atMost: 0.6 })).to.equal(true);
    expect(reached({ atMost: 0.59 })).to.equal(false);
  });

  it("is never reached without a round", () => {
    const none = resultOf({ name: "rate", unit: "/s", goal: { atLeast: 0.6 }, rounds: [] });
    expect(none.ratio.median).to.satisfy(Number.isNaN);
    expect(none.reached).to.equal(false);
  });
});

describe("percentiles", () => {
  it("are values that were seen, by nearest rank", () => {
    const values = Array.from({ length: 100 }, (_, at) => 100 - at);
    expect(percentile(values, 0.5)).to.equal(50);
    expect(percentile(values, 0.99)).to.equal(99);
    expect(percentile(values, 1)).to.equal(100);
    expect(percentile([7], 0.01)).to.equal(7);
  });

  it("leave the given values in their order", () => {
    const values = [3, 1, 2];
    median(values);
    percentile(values, 0.5);
    expect(values).to.deep.equal([3, 1, 2]);
  });
});
