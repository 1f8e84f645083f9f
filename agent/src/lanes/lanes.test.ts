import { expect } from "chai";
import fc from "fast-check";
import { Lanes } from "./lanes.ts";

const vmUuid = "vm";
type Item = { vmUuid: string; lane: "work" | "control"; n: number; order: string };
const itemOf = (n: number, lane: Item["lane"] = "work"): Item => ({
  ...{ vmUuid, lane, n },
  order: String(n).padStart(6, "0"),
});

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
          } else lanes.add(itemOf(n, action));
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

  it("start every command although its doorbells come in any order and only the earliest may be claimed", () => {
    const orders = fc
      .uniqueArray(fc.integer({ min: 0, max: 999 }), { minLength: 1, maxLength: 20 })
      .chain((ids) => {
        const shuffled = fc.shuffledSubarray(ids, { minLength: ids.length });
        return fc.record({ ringing: shuffled, accepted: shuffled });
      });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), orders, (concurrency, { ringing, accepted }) => {
        const lanes = new Lanes<Item>();
        lanes.setConcurrency(vmUuid, concurrency);
        const ended = new Set<number>();
        const ring = [...ringing];
        // As vm-ops decides: granted only when all that was accepted before has ended.
        for (let turn = 0; turn < ringing.length * 3 && ended.size < ringing.length; turn++) {
          const n = ring.shift();
          if (n !== undefined) lanes.add(itemOf(n));
          const resting: Item[] = [];
          for (let ready = lanes.take(vmUuid); ready.length > 0; ready = lanes.take(vmUuid)) {
            for (const item of ready) {
              if (accepted.find((other) => !ended.has(other)) === item.n) ended.add(item.n);
              else {
                lanes.rest(item);
                resting.push(item);
              }
              lanes.release(item);
            }
          }
          for (const item of resting) lanes.wake(item);
        }
        expect(ended.size).to.equal(ringing.length);
      }),
    );
  });

  it("count work that was found running after a restart", () => {
    const lanes = new Lanes<Item>();
    const found = itemOf(0);
    lanes.occupy(found);
    lanes.add(itemOf(1));
    expect(lanes.take(vmUuid)).to.deep.equal([]);
    lanes.release(found);
    expect(lanes.take(vmUuid).map(({ n }) => n)).to.deep.equal([1]);
  });
});
