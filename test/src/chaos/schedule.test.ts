import { describe, it } from "mocha";
import { expect } from "chai";
import fc from "fast-check";
import { makeSchedule, type Schedulable } from "./schedule.ts";

const faults: Schedulable[] = [
  { name: "kill", targets: ["a", "b", "c"], lastsMs: [500, 8_000] },
  { name: "stop", targets: ["a", "b", "c"], lastsMs: [2_000, 20_000] },
  { name: "alarm", targets: ["node"], lastsMs: [2_000, 10_000], resource: "broker" },
  { name: "delete", targets: ["q", "r"], lastsMs: [0, 0], resource: "broker" },
];
const seed = fc.integer({ min: 0, max: 2 ** 32 - 1 });

describe("a schedule of faults", () => {
  it("is the same for the same seed, and another for another", () => {
    expect(makeSchedule(7, 300_000, faults)).to.deep.equal(makeSchedule(7, 300_000, faults));
    expect(makeSchedule(7, 300_000, faults)).not.to.deep.equal(makeSchedule(8, 300_000, faults));
  });

  it("uses every fault that is declared, again and again", () => {
    fc.assert(
      fc.property(seed, (given) => {
        const planned = makeSchedule(given, 600_000, faults);
        for (const { name } of faults) {
          expect(planned.filter(({ fault }) => fault === name)).to.have.length.above(5);
        }
      }),
    );
  });

  it("ends in time, has three at once at most, and never two on one resource", () => {
    fc.assert(
      fc.property(seed, (given) => {
        const planned = makeSchedule(given, 300_000, faults).map((one) => {
          const fault = faults.find(({ name }) => name === one.fault);
          return { ...one, endMs: one.atMs + one.durationMs, resource: fault?.resource ?? one.target };
        });
        for (const one of planned) {
          expect(one.endMs).to.be.at.most(300_000);
          const others = planned.filter((other) => other !== one);
          const during = others.filter((other) => other.atMs <= one.atMs && other.endMs > one.atMs);
          expect(during.length).to.be.at.most(2);
          expect(during.map(({ resource }) => resource)).not.to.include(one.resource);
        }
      }),
    );
  });
});
