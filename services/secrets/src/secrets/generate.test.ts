import { expect } from "chai";
import { describe, it } from "mocha";
import { alphabets, generate } from "./generate.ts";

const names = Object.keys(alphabets) as (keyof typeof alphabets)[];

describe("a generated value", () => {
  for (const alphabet of names) {
    it(`has its length, of ${alphabet} characters, all of them, and is another each time`, () => {
      const text = generate({ length: 1_024, alphabet }) + generate({ length: 1_024, alphabet });
      expect(text).to.have.length(2_048);
      expect([...new Set(text)].every((one) => alphabets[alphabet].includes(one))).to.equal(true);
      // Of 94 characters one is missing among 2 048 once in 35 million runs.
      expect(new Set(text).size).to.equal(alphabets[alphabet].length);
      expect(text.slice(0, 1_024)).to.not.equal(text.slice(1_024));
    });
  }
});
