import { expect } from "chai";
import { Sparing } from "./sparing.ts";

describe("lines that are logged sparingly", () => {
  it("are the first of each kind in each period, and the next one tells how many were not", () => {
    const state = { nowMs: 0 };
    const lines = new Sparing({ linesMax: 2, periodMs: 1_000, now: () => state.nowMs });
    const next = (kind: string, times: number) => Array.from({ length: times }, () => lines.next(kind));
    expect(next("a", 5)).to.deep.equal([0, 0, undefined, undefined, undefined]);
    expect(next("b", 1)).to.deep.equal([0]);
    state.nowMs = 999;
    expect(next("a", 1)).to.deep.equal([undefined]);
    state.nowMs = 1_000;
    expect(next("a", 3)).to.deep.equal([4, 0, undefined]);
  });
});
