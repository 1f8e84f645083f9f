import { prepareEvent } from "../src/prepare.ts";
import { eventsExchange } from "@muster/contracts/topology";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { broke, moved } from "./sample-mesh.ts";
import { context, setup, type Bench } from "./setup.ts";

describe("hearing an event in every process", function () {
  this.timeout(60_000);
  let bench: Bench;
  before(async () => (bench = await setup()));
  after(() => bench.close());

  async function hearer(via?: Awaited<ReturnType<Bench["link"]>>) {
    const broker = await bench.open(via === undefined ? {} : { via });
    const seen = { heard: [] as number[], missed: 0 };
    const hearing = await broker.hear(moved, {
      heard: ({ n }) => seen.heard.push(n),
      missed: () => (seen.missed += 1),
    });
    return { broker, seen, hearing };
  }

  it("gives each process each event of its kind, and says when one may have been missed", async () => {
    const link = await bench.link();
    const [near, far] = await Promise.all([hearer(), hearer(link)]);
    const publisher = await bench.open();
    const tell = (n: number) => publisher.publish(prepareEvent(moved, { n }, { context }));
    await publisher.publish(prepareEvent(broke, { n: 0 }, { context }));
    await tell(1);
    await eventuallyHolds(() => expect([near.seen.heard, far.seen.heard]).to.deep.equal([[1], [1]]));
    link.cut();
    await tell(2);
    await eventually(() => far.seen.missed > 0);
    await tell(3);
    await eventuallyHolds(() => expect(far.seen.heard.at(-1)).to.equal(3));
    expect([near.seen.heard, near.seen.missed]).to.deep.equal([[1, 2, 3], 0]);
    await near.hearing.close();
    await tell(4);
    await eventuallyHolds(() => expect(far.seen.heard.at(-1)).to.equal(4));
    expect(near.seen.heard).to.deep.equal([1, 2, 3]);
  });

  it("calls an event that it cannot read missed", async () => {
    const { seen } = await hearer();
    const exchange = eventsExchange(moved.owner);
    await bench.vhost.publish({ exchange, routingKey: moved.name, payload: "{}" });
    await eventuallyHolds(() => expect(seen).to.deep.equal({ heard: [], missed: 1 }));
  });
});
