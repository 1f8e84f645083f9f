import { expect } from "chai";
import fc from "fast-check";
import { Lane } from "./lanes.ts";

describe("a lane", () => {
  it("works off everything in order, in batches no larger than allowed", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 0, max: 60 }),
        async (sizeMax, count) => {
          const batches: (readonly number[])[] = [];
          const work = async (items: readonly number[]): Promise<void> => void batches.push(items);
          const lane = new Lane<number>({ sizeMax, waitMs: 1, concurrency: 1 }, work, () => {});
          for (let n = 0; n < count; n++) lane.push(n);
          expect(await lane.idle(2_000)).to.equal(true);
          expect(batches.flat()).to.deep.equal(Array.from({ length: count }, (_, n) => n));
          expect(batches.every((batch) => batch.length <= sizeMax)).to.equal(true);
        },
      ),
      { numRuns: 30 },
    );
  });

  it("works on no more at once than allowed, and goes on after a failure", async () => {
    let running = 0;
    let most = 0;
    const failures: unknown[] = [];
    const work = async (items: readonly number[]): Promise<void> => {
      most = Math.max(most, ++running);
      await new Promise((resolve) => setImmediate(resolve));
      running -= 1;
      if (items[0] === 3) throw new Error("three");
    };
    const lane = new Lane<number>({ sizeMax: 1, waitMs: 0, concurrency: 4 }, work, (error) =>
      failures.push(error),
    );
    for (let n = 0; n < 20; n++) lane.push(n);
    expect(await lane.idle(2_000)).to.equal(true);
    expect(most).to.equal(4);
    expect(failures).to.have.length(1);
  });

  it("hands back what nobody began", async () => {
    const done: number[] = [];
    let go = (): void => {};
    const gate = new Promise<void>((resolve) => {
      go = resolve;
    });
    const work = async (items: readonly number[]): Promise<void> => {
      await gate;
      done.push(...items);
    };
    const lane = new Lane<number>({ sizeMax: 2, waitMs: 0, concurrency: 1 }, work, () => {});
    for (let n = 0; n < 5; n++) lane.push(n);
    const unstarted = lane.takeUnstarted();
    go();
    expect(await lane.idle(2_000)).to.equal(true);
    expect([...done, ...unstarted]).to.deep.equal([0, 1, 2, 3, 4]);
    expect(unstarted.length).to.be.greaterThan(0);
  });
});
