import { randomUUID } from "node:crypto";
import { liveExchange, vmQueue } from "@muster/contracts/topology";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import type { RawDelivery } from "../src/broker.ts";
import { prepareDoorbell } from "../src/prepare.ts";
import { bell } from "./sample-mesh.ts";
import { context, setup, type Bench } from "./setup.ts";

describe("raw consumers", function () {
  this.timeout(40_000);
  let bench: Bench;
  before(async () => {
    bench = await setup();
  });
  afterEach(() => bench.rest());
  after(() => bench.close());

  const ring = (queue: string, n = 1) => prepareDoorbell(bell, { n }, { context, tenantId: "acme", queue });

  async function vm() {
    const broker = await bench.open();
    const queue = vmQueue("acme", randomUUID());
    await broker.ensureVmQueue(queue);
    return { broker, queue };
  }

  it("makes a VM's queue once, however often it is asked to", async () => {
    const { broker, queue } = await vm();
    await Promise.all(Array.from({ length: 5 }, () => broker.ensureVmQueue(queue)));
    expect(await broker.queueExists(queue)).to.equal(true);
    await broker.deleteQueue(queue);
    await broker.deleteQueue(queue);
    expect(await broker.queueExists(queue)).to.equal(false);
  });

  it("takes settling twice, and after the channel is gone, as nothing", async () => {
    const link = await bench.link();
    const { broker, queue } = await vm();
    const consumer = await bench.open({ via: link });
    const taken: RawDelivery[] = [];
    await consumer.consume(queue, { prefetch: 10 }, (delivery) => taken.push(delivery));
    await broker.publish(ring(queue, 1));
    const first = await eventually(() => taken[0]);
    link.cut();
    await eventually(() => taken.length === 2);
    first.ack();
    first.reject(false);
    const again = taken[1];
    expect(again?.messageId).to.equal(first.messageId);
    again?.ack();
    again?.ack();
    again?.reject(true);
    const second = ring(queue, 2);
    await broker.publish(second);
    const next = await eventually(() => taken[2]);
    expect(next.messageId).to.equal(second.id);
    next.ack();
    await eventually(() => consumer.health().ok);
  });

  it("acknowledges in any order without touching what is unsettled", async () => {
    const { broker, queue } = await vm();
    const taken: RawDelivery[] = [];
    const consumer = await broker.consume(queue, { prefetch: 100, drainTimeoutMs: 50 }, (d) => taken.push(d));
    await Promise.all(Array.from({ length: 60 }, (_, n) => broker.publish(ring(queue, n))));
    await eventually(() => taken.length === 60);
    const kept = new Set([0, 7, 8, 31, 59]);
    for (const [at, delivery] of [...taken.entries()].reverse()) if (!kept.has(at)) delivery.ack();
    await consumer.close();
    const left: RawDelivery[] = [];
    await broker.consume(queue, { prefetch: 100 }, (delivery) => {
      left.push(delivery);
      delivery.ack();
    });
    await broker.publish(ring(queue, 60));
    await eventually(() => left.length > kept.size);
    const idOf = (at: number): string | undefined => taken[at]?.messageId;
    const before = left.slice(0, kept.size).map(({ messageId }) => messageId);
    expect(before).to.have.members([...kept].map(idOf));
    expect(left).to.have.length(kept.size + 1);
  });

  it("says that its queue is gone and consumes again once it is back", async () => {
    const { broker, queue } = await vm();
    const taken: RawDelivery[] = [];
    const consumer = await broker.consume(queue, { prefetch: 1 }, (delivery) => {
      taken.push(delivery);
      delivery.ack();
    });
    await bench.vhost.deleteQueue(queue);
    await eventually(() => /does not exist; apply the topology/.test(consumer.health().reason ?? ""));
    expect(broker.health().reason).to.include(queue);
    await broker.ensureVmQueue(queue);
    await eventually(() => consumer.health().ok, 20_000);
    await broker.publish(ring(queue));
    await eventually(() => taken.length === 1);
  });

  it("waits for a queue that is not there yet instead of failing", async () => {
    const broker = await bench.open();
    const queue = vmQueue("acme", randomUUID());
    const consumer = await broker.consume(queue, { prefetch: 1 }, (delivery) => delivery.ack());
    expect(consumer.health().ok).to.equal(false);
    await broker.ensureVmQueue(queue);
    await eventually(() => consumer.health().ok, 20_000);
  });

  it("dead-letters what is rejected, and what keeps failing at the limit, with its queue as routing key", async () => {
    const { broker, queue } = await vm();
    let deliveries = 0;
    await broker.consume(queue, { prefetch: 1 }, (delivery) => {
      deliveries += 1;
      delivery.reject(true);
    });
    await broker.publish(ring(queue));
    const dead = await eventually(async () => (await bench.vhost.take("muster.dead-letters.vm"))[0]);
    expect(dead.routing_key).to.equal(queue);
    expect(dead.properties.headers["x-first-death-reason"]).to.equal("delivery_limit");
    expect(deliveries).to.equal(3);
  });

  it("rejects, and survives, a delivery whose callback throws", async () => {
    const { broker, queue } = await vm();
    let calls = 0;
    const consumer = await broker.consume(queue, { prefetch: 1 }, (delivery) => {
      calls += 1;
      if (calls === 1) throw new Error("bad day");
      delivery.ack();
    });
    await broker.publish(ring(queue, 1));
    await broker.publish(ring(queue, 2));
    await eventually(() => calls === 2);
    expect(consumer.health().ok).to.equal(true);
    await eventually(async () => (await bench.vhost.take("muster.dead-letters.vm")).length === 1);
  });

  it("gives back, uncounted as failed, what a drain leaves undone", async () => {
    const { broker, queue } = await vm();
    const taken: RawDelivery[] = [];
    const consumer = await broker.consume(queue, { prefetch: 10 }, (delivery) => taken.push(delivery));
    await broker.publish(ring(queue));
    const delivery = await eventually(() => taken[0]);
    const closing = consumer.close();
    delivery.nackNotAttempted();
    await closing;
    await broker.consume(queue, { prefetch: 10 }, (again) => {
      taken.push(again);
      again.ack();
    });
    const again = await eventually(() => taken[1]);
    expect(again.messageId).to.equal(delivery.messageId);
    expect(again.redelivered).to.equal(true);
  });

  it("hands hints of bound keys only, also after its connection came back", async () => {
    const link = await bench.link();
    const viewer = await bench.open({ via: link });
    const sender = await bench.open();
    const seen: unknown[] = [];
    const watch = await viewer.watch(liveExchange, (key, payload) => seen.push([key, payload]));
    await watch.bind("one");
    await watch.bind("one");
    await watch.unbind("one");
    await eventually(() => {
      sender.hint(liveExchange, "two", { n: 0 });
      sender.hint(liveExchange, "one", { n: 1 });
      return seen.length > 0;
    });
    link.cut();
    seen.length = 0;
    await eventually(() => {
      sender.hint(liveExchange, "one", { n: 2 });
      return seen.length > 0;
    });
    expect(seen[0]).to.deep.equal(["one", { n: 2 }]);
    await watch.unbind("one");
    await watch.close();
    expect(() => sender.hint("no.such.exchange", "one", {})).to.not.throw();
  });
});
