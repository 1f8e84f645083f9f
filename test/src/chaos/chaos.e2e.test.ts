import { describe, it } from "mocha";
import { expect } from "chai";
import { faults } from "./faults.ts";
import { runChaos } from "./run.ts";

const log = (line: string): void => {
  if (process.env["MUSTER_TEST_VERBOSE"] !== undefined) process.stderr.write(`${line}\n`);
};

describe("under random faults and steady load", function () {
  this.timeout(420_000);

  it("loses nothing, starts nothing twice, and ends in consistent states", async () => {
    const { violations, outcomes, folder } = await runChaos({ minutes: 1.5, seed: 20, log });
    expect(violations, `logs and journals are kept in ${folder ?? ""}`).to.deep.equal([]);
    const used = new Set(outcomes.filter((one) => one.error === undefined).map((one) => one.fault));
    expect(used.size).to.be.at.least(Math.min(faults.length, 10));
  });
});
