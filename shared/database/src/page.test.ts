import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { expect } from "chai";
import fc from "fast-check";
import { cursorOf, pageOf, placeOf } from "./page.ts";

describe("cursors of listings by id", () => {
  it("lead back to the entry that they were made of", () => {
    const id = uuidv7();
    expect(placeOf(cursorOf(id))).to.equal(id);
    expect(placeOf(undefined)).to.equal(null);
  });

  it("are refused as CURSOR_INVALID when they are anything else", () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        expect(() => placeOf(text))
          .to.throw(MusterError)
          .with.property("code", "CURSOR_INVALID");
      }),
    );
  });

  it("name the last entry of a page that has more behind it, and of no other", () => {
    const rows = [uuidv7(), uuidv7(), uuidv7()].map((id) => ({ id }));
    const viewOf = (row: { id: string }) => row.id;
    const first = pageOf(rows, 2, viewOf);
    expect(first.items).to.deep.equal([rows[0]?.id, rows[1]?.id]);
    expect(placeOf(first.next_cursor ?? "")).to.equal(rows[1]?.id);
    expect(pageOf(rows, 3, viewOf).next_cursor).to.equal(null);
  });
});
