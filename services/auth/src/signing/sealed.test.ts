import { randomBytes } from "node:crypto";
import { expect } from "chai";
import fc from "fast-check";
import { sealerOf } from "./sealed.ts";

function setup() {
  return { sealer: sealerOf(randomBytes(32)), other: sealerOf(randomBytes(32)) };
}

describe("sealed private keys", () => {
  it("open with their key and subject, and with no other", () => {
    const { sealer, other } = setup();
    const sealed = sealer.seal(Buffer.from("secret"), "k1");
    expect(sealer.open(sealed, "k1").toString()).to.equal("secret");
    expect(sealed.includes("secret")).to.equal(false);
    expect(() => other.open(sealed, "k1")).to.throw();
    expect(() => sealer.open(sealed, "k2")).to.throw();
    expect(sealer.id).to.not.equal(other.id);
  });

  it("do not open when any bit was changed", () => {
    const { sealer } = setup();
    const sealed = sealer.seal(Buffer.from("a private key of some length"), "k1");
    fc.assert(
      fc.property(fc.nat(sealed.length * 8 - 1), (bit) => {
        const damaged = Buffer.from(sealed);
        damaged[bit >> 3] = damaged[bit >> 3]! ^ (1 << (bit & 7));
        expect(() => sealer.open(damaged, "k1")).to.throw();
      }),
      { numRuns: 100 },
    );
  });
});
