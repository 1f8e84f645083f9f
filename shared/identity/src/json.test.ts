import { expect } from "chai";
import fc from "fast-check";
import { readJson } from "./json.ts";

const read = (text: string) => readJson(Buffer.from(text));

describe("JSON of others", () => {
  it("is read as JSON.parse reads it, where no member stands twice", () => {
    fc.assert(
      fc.property(fc.json({ maxDepth: 5 }), (text) => {
        expect(read(text)).to.deep.equal(JSON.parse(text));
      }),
    );
  });

  it("is refused where a member stands twice, at any depth and in any spelling", () => {
    const doubled = [
      '{"a":1,"a":1}',
      '{"a":1,"\\u0061":2}',
      '[{"b":{"x":[],"c":{},"x":"}"}}]',
      '{"":0,"":0}',
      '{"__proto__":1,"__proto__":2}',
      '{"a\\"":1,"b":[{"a":1}],"a\\"":2}',
    ];
    for (const text of doubled) expect(() => read(text), text).to.throw("twice");
    const once = ['{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}]}', '{"a":"\\"a\\":1,","b":":{"}', "[]", "1"];
    for (const text of once) expect(read(text), text).to.deep.equal(JSON.parse(text));
  });

  it("is refused where it is no UTF-8, has a mark before it, or is no JSON", () => {
    expect(() => readJson(Buffer.from([0x22, 0xff, 0x22]))).to.throw();
    for (const text of ["\ufeff{}", "", "{", "{}{}", "{'a':1}"]) expect(() => read(text), text).to.throw();
  });
});
