import { expect } from "chai";
import fc from "fast-check";
import { keptBytes, nextReadable, pieceBytesMax, ringPieces, ringStart } from "./capture.ts";

const limits = { headBytes: 256 * 1024, ringBytes: 256 * 1024 };
const total = fc.integer({ min: 0, max: 2 * 1024 * 1024 });

describe("the capture's window", () => {
  it("keeps the first and the last bytes, and no more than both limits together", () => {
    fc.assert(
      fc.property(total, (bytes) => {
        const counters = { total: bytes, headKept: Math.min(bytes, limits.headBytes), ringFrom: 0 };
        const kept = keptBytes(counters, limits);
        expect(kept).to.equal(Math.min(bytes, limits.headBytes + limits.ringBytes));
        if (bytes > limits.headBytes)
          expect(bytes - ringStart(counters, limits)).to.be.at.most(limits.ringBytes);
      }),
    );
  });

  it("maps a write onto ring pieces that cover it once and stay inside the ring", () => {
    const length = fc.integer({ min: 1, max: pieceBytesMax });
    fc.assert(
      fc.property(fc.integer({ min: limits.headBytes, max: 10_000_000 }), length, (offset, bytes) => {
        const pieces = ringPieces(offset, bytes, limits);
        expect(pieces.reduce((sum, piece) => sum + piece.length, 0)).to.equal(bytes);
        for (const { at, length: size } of pieces) expect(at + size).to.be.at.most(limits.ringBytes);
        expect(pieces[0]?.at).to.equal((offset - limits.headBytes) % limits.ringBytes);
      }),
    );
  });

  it("never offers a byte that a write under way may be replacing, never goes back, and ends exactly at the total", () => {
    fc.assert(
      fc.property(total, total, fc.boolean(), (bytes, offset, ended) => {
        fc.pre(offset <= bytes);
        const counters = { total: bytes, headKept: Math.min(bytes, limits.headBytes), ringFrom: 0, ended };
        const next = nextReadable(offset, counters, limits);
        expect(next.offset).to.be.at.least(offset);
        expect(next.offset + next.length).to.be.at.most(Math.max(bytes, next.offset));
        const inRing = next.length > 0 && next.offset >= limits.headBytes;
        if (inRing && !ended) expect(next.offset).to.be.at.least(bytes + pieceBytesMax - limits.ringBytes);
        if (ended && next.length === 0) expect(next.offset).to.equal(bytes);
      }),
    );
  });
});
