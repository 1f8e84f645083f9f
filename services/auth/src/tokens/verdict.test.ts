import { expect } from "chai";
import fc from "fast-check";
import { usesMax, verdictOn } from "./verdict.ts";

const presented = fc
  .record({
    uses: fc.integer({ min: 0, max: usesMax }),
    age: fc.integer({ min: 0, max: 3 }),
    alive: fc.boolean(),
    usable: fc.boolean(),
    retried: fc.boolean(),
  })
  .map(({ age, ...rest }) => ({ ...rest, generation: Math.max(0, rest.uses - age) }));

const current = { generation: 3, uses: 3, alive: true, usable: true, retried: false };

describe("the verdict on a refresh token", () => {
  it("gives something only while family, key and holder are good", () => {
    fc.assert(
      fc.property(presented, (one) => {
        const verdict = verdictOn(one);
        if (!one.alive) expect(verdict).to.equal("refuse");
        if (!one.usable) expect(verdict).to.be.oneOf(["refuse", "reuse"]);
      }),
    );
  });

  it("rotates none but the newest, and repeats none but the use before it", () => {
    fc.assert(
      fc.property(presented, (one) => {
        const verdict = verdictOn(one);
        if (verdict === "rotate") expect(one.generation).to.equal(one.uses);
        if (verdict === "repeat") expect([one.generation, one.retried]).to.deep.equal([one.uses - 1, true]);
        if (one.alive && one.generation < one.uses - 1) expect(verdict).to.equal("reuse");
      }),
    );
  });

  it("tells the four apart", () => {
    expect(verdictOn(current)).to.equal("rotate");
    expect(verdictOn({ ...current, generation: 2 })).to.equal("reuse");
    expect(verdictOn({ ...current, generation: 2, retried: true })).to.equal("repeat");
    expect(verdictOn({ ...current, generation: 1, retried: true })).to.equal("reuse");
    expect(verdictOn({ ...current, usable: false })).to.equal("refuse");
    expect(verdictOn({ ...current, generation: usesMax, uses: usesMax })).to.equal("refuse");
  });
});
