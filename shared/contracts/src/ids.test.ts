import { expect } from "chai";
import { uuid, uuidv7 } from "./ids.ts";

describe("uuidv7", () => {
  it("makes ids of version 7 that are never the same and sort in the order of their making", () => {
    const made = Array.from({ length: 20_000 }, () => uuidv7());
    for (const id of made)
      expect(uuid.safeParse(id).success && /^.{14}7.{4}[89ab]/.test(id), id).to.equal(true);
    expect(new Set(made).size).to.equal(made.length);
    expect([...made].sort()).to.deep.equal(made);
  });

  it("keeps the order when the clock stands still or goes back", () => {
    const nowMs = Date.now() + 60_000;
    const made = Array.from({ length: 10_000 }, (_, n) => uuidv7(nowMs - n));
    expect([...made].sort()).to.deep.equal(made);
  });

  it("tells the time of its making in its first 48 bits", () => {
    const nowMs = Date.now() + 600_000;
    expect(Number.parseInt(uuidv7(nowMs).replaceAll("-", "").slice(0, 12), 16)).to.equal(nowMs);
  });
});
