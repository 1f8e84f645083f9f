import { expect } from "chai";
import fc from "fast-check";
import { headBytes, middleOf, placeChunk, tailBytes } from "./stream-policy.ts";
import type { StreamState } from "./stream-policy.ts";

describe("placing chunks of output", () => {
  it("stores every byte once, in its place, whatever is repeated or overlaps", () => {
    const pieces = fc.array(fc.record({ offset: fc.nat(200), length: fc.nat(50) }), { maxLength: 30 });
    fc.assert(
      fc.property(pieces, (sent) => {
        let stream: StreamState = { nextOffset: 0, complete: false };
        let end = 0;
        for (const { offset, length } of sent) {
          const data = Buffer.from(Array.from({ length }, (_, n) => (offset + n) % 251));
          const placed = placeChunk(stream, { offset, data, last: false });
          if (placed.store !== undefined) {
            expect(placed.store.offset).to.be.least(end);
            expect([...placed.store.data]).to.deep.equal(
              Array.from(
                { length: placed.store.data.length },
                (_, n) => ((placed.store?.offset ?? 0) + n) % 251,
              ),
            );
            end = placed.store.offset + placed.store.data.length;
          }
          expect(placed.after.nextOffset).to.be.least(stream.nextOffset);
          stream = placed.after;
        }
        expect(stream.nextOffset).to.equal(Math.max(0, ...sent.map(({ offset, length }) => offset + length)));
      }),
    );
  });

  it("takes nothing after the last chunk", () => {
    const over = placeChunk(
      { nextOffset: 3, complete: false },
      { offset: 3, data: Buffer.alloc(0), last: true },
    );
    expect(over).to.deep.equal({ store: undefined, after: { nextOffset: 3, complete: true } });
    const more = placeChunk(over.after, { offset: 3, data: Buffer.from("x"), last: false });
    expect(more).to.deep.equal({ store: undefined, after: over.after });
  });

  it("cuts the middle alone", () => {
    expect(middleOf(headBytes + tailBytes)).to.equal(undefined);
    expect(middleOf(headBytes + tailBytes + 10)).to.deep.equal({ from: headBytes, to: headBytes + 10 });
  });
});
