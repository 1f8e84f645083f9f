import { expect } from "chai";
import { describe, it } from "mocha";
import { makeCanary } from "./canary.ts";

describe("the canary", () => {
  it("is found in whatever form it was written, wherever it stands and however it is cut", () => {
    const { value, formsIn, watch } = makeCanary();
    const around = (text: string) => `before ${text} after`;
    const written: Record<string, string> = {
      plain: around(value),
      json: JSON.stringify({ a: value }),
      nested: JSON.stringify({ a: JSON.stringify({ b: value }) }),
      hex: Buffer.from(around(value)).toString("hex"),
      url: new URLSearchParams({ a: value }).toString(),
      component: `https://example.org/?a=${encodeURIComponent(value)}`,
    };
    for (const before of ["", "a", "ab", "abc", "user:"]) {
      written[`base64 after ${before}`] = Buffer.from(`${before}${value}\n`).toString("base64");
      written[`base64url after ${before}`] = Buffer.from(`${before}${value}\n`).toString("base64url");
    }
    for (const [how, text] of Object.entries(written)) {
      expect(formsIn(text), how).to.not.deep.equal([]);
      for (const size of [1, 7, 64]) {
        const found: string[] = [];
        const look = watch((form) => found.push(form));
        const bytes = Buffer.from(text);
        for (let at = 0; at < bytes.length; at += size) look(bytes.subarray(at, at + size));
        expect(found, `${how} in pieces of ${size}`).to.not.deep.equal([]);
      }
    }
  });

  it("is not found where it is not", () => {
    const { formsIn } = makeCanary();
    expect(formsIn(makeCanary().value)).to.deep.equal([]);
    expect(formsIn(Buffer.from(JSON.stringify(process.versions)))).to.deep.equal([]);
  });
});
