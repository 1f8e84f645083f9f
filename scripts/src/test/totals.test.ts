import { expect } from "chai";
import { add, exitCodeOf, nothing, oneFailure, totalsLine } from "./totals.ts";

describe("the totals of a test run", () => {
  it("say passed and failed, and skipped only where tests were", () => {
    expect(totalsLine({ passed: 12, failed: 0, skipped: 0 })).to.equal("12 passed, 0 failed");
    expect(totalsLine({ passed: 1, failed: 2, skipped: 3 })).to.equal("1 passed, 2 failed, 3 skipped");
  });

  it("fail when a test failed and when no test ran", () => {
    expect(exitCodeOf({ passed: 5, failed: 0, skipped: 1 })).to.equal(0);
    expect(exitCodeOf({ passed: 5, failed: 1, skipped: 0 })).to.equal(1);
    expect(exitCodeOf({ passed: 0, failed: 0, skipped: 4 })).to.equal(1);
  });

  it("add up", () => {
    const some = { passed: 2, failed: 0, skipped: 1 };
    expect(add(add(nothing, some), oneFailure)).to.deep.equal({ passed: 2, failed: 1, skipped: 1 });
  });
});
