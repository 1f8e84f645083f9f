import { expect } from "chai";
import { z } from "zod";
import { breakingChanges } from "./compatibility.ts";
import { wireSchemaOf } from "./schema.ts";

const base = z.object({ id: z.string().max(10), kind: z.enum(["a", "b"]), note: z.string().optional() });

function breaks(after: z.ZodType, side: "payload" | "reply"): string[] {
  return breakingChanges(wireSchemaOf(base), wireSchemaOf(after), side);
}

describe("compatibility within a version", () => {
  it("finds nothing where nothing changed", () => {
    expect(breaks(base, "payload")).to.deep.equal([]);
    expect(breaks(base, "reply")).to.deep.equal([]);
  });

  it("allows an optional field to be added on either side", () => {
    const after = base.extend({ extra: z.number().optional() });
    expect(breaks(after, "payload")).to.deep.equal([]);
    expect(breaks(after, "reply")).to.deep.equal([]);
  });

  const broken: [string, z.ZodType, "payload" | "reply", RegExp][] = [
    ["a removed field", base.omit({ note: true }), "payload", /note: removed/],
    ["a new required field", base.extend({ extra: z.number() }), "payload", /extra: now required/],
    ["another type", base.extend({ id: z.number() }), "payload", /id: type was/],
    ["a removed value", base.extend({ kind: z.enum(["a", "c"]) }), "payload", /values removed: b/],
    ["a tighter bound", base.extend({ id: z.string().max(5) }), "payload", /maxLength was 10, now 5/],
    ["a field that may now be missing from a reply", base.partial({ id: true }), "reply", /id: was always/],
    ["a new value in a reply", base.extend({ kind: z.enum(["a", "b", "c"]) }), "reply", /values added: c/],
    ["a looser bound in a reply", base.extend({ id: z.string().max(50) }), "reply", /maxLength/],
  ];
  for (const [what, after, side, message] of broken) {
    it(`names ${what} (${side})`, () => {
      expect(breaks(after, side).join("\n")).to.match(message);
    });
  }
});
