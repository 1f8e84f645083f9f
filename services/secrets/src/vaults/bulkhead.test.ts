import { expect } from "chai";
import { Bulkhead, BulkheadFull } from "./bulkhead.ts";

const never = new AbortController().signal;

describe("a bulkhead", () => {
  it("gives places in the order in which they were asked for", async () => {
    const bulkhead = new Bulkhead({ placesMax: 1, waitingMax: 3 });
    const order: number[] = [];
    const first = await bulkhead.enter(never);
    const waiting = [1, 2, 3].map(async (number) => {
      const leave = await bulkhead.enter(never);
      order.push(number);
      leave();
    });
    first();
    await Promise.all(waiting);
    expect(order).to.deep.equal([1, 2, 3]);
  });

  it("is full at its bound, and has a place again for each that left, once", async () => {
    const bulkhead = new Bulkhead({ placesMax: 2, waitingMax: 0 });
    const leave = await bulkhead.enter(never);
    await bulkhead.enter(never);
    const refused = () => bulkhead.enter(never).then(String, (error: unknown) => error);
    expect(await refused()).to.be.instanceOf(BulkheadFull);
    leave();
    leave();
    await bulkhead.enter(never);
    expect(await refused()).to.be.instanceOf(BulkheadFull);
  });

  it("forgets who gave up waiting", async () => {
    const bulkhead = new Bulkhead({ placesMax: 1, waitingMax: 1 });
    const leave = await bulkhead.enter(never);
    const given = new AbortController();
    const waiting = bulkhead.enter(given.signal).then(String, (error: unknown) => error);
    given.abort(new Error("no more"));
    expect(String(await waiting)).to.equal("Error: no more");
    const next = bulkhead.enter(never);
    leave();
    (await next)();
    (await bulkhead.enter(never))();
  });

  it("lets nobody in who has given up already", async () => {
    const bulkhead = new Bulkhead({ placesMax: 1, waitingMax: 1 });
    const thrown = await bulkhead
      .enter(AbortSignal.abort(new Error("over")))
      .catch((error: unknown) => error);
    expect(String(thrown)).to.equal("Error: over");
    await bulkhead.enter(never);
  });
});
