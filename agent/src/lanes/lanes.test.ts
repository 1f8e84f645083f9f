import { expect } from "chai";
import fc from "fast-check";
import { Lanes } from "./lanes.ts";

const vmUuid = "vm";
type Item = { vmUuid: string; lane: "work" | "control"; n: number };

describe("lanes", () => {
  it("start the work of one VM in the order of its doorbells, never more at once than it allows, and let control pass", () => {
    const step = fc.oneof(fc.constantFrom("work" as const, "control" as const, "release" as const));
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), fc.array(step, { maxLength: 60 }), (concurrency, steps) => {
        const lanes = new Lanes<Item>();
        lanes.setConcurrency(vmUuid, concurrency);
        const busy: Item[] = [];
        const started: number[] = [];
        steps.forEach((action, n) => {
          if (action === "release") {
            const done = busy.shift();
            if (done !== undefined) lanes.release(done);
          } else lanes.add({ vmUuid, lane: action, n });
          for (const item of lanes.take(vmUuid)) {
            if (item.lane === "control") expect(item.n).to.equal(n);
            else {
              busy.push(item);
              started.push(item.n);
            }
          }
          expect(busy.length).to.be.at.most(concurrency);
        });
        expect(started).to.deep.equal([...started].sort((a, b) => a - b));
        // Work conserving: nothing waits while there is room.
        if (busy.length < concurrency) expect(lanes.waitingCount(vmUuid)).to.equal(0);
      }),
    );
  });

  it("count work that was found running after a restart", () => {
    const lanes = new Lanes<Item>();
    const found: Item = { vmUuid, lane: "work", n: 0 };
    lanes.occupy(found);
    lanes.add({ vmUuid, lane: "work", n: 1 });
    expect(lanes.take(vmUuid)).to.deep.equal([]);
    lanes.release(found);
    expect(lanes.take(vmUuid).map(({ n }) => n)).to.deep.equal([1]);
  });
});
