import { randomUUID } from "node:crypto";
import { MusterError } from "@muster/contracts/errors";
import { loginName } from "@muster/contracts/senders";
import { eventually } from "@muster/testing/eventually";
import { seenBeforeSentinel } from "@muster/testing/sentinel";
import { expect } from "chai";
import type { Broker, EventHandlers } from "../src/broker.ts";
import { prepareEvent } from "../src/prepare.ts";
import { broke, crates, moved } from "./sample-mesh.ts";
import { context, gateOf, rememberingRunner, setup, type Bench } from "./setup.ts";

type Handlers = EventHandlers<typeof crates.events, { readonly effects: string[] }>;

const queue = "reliability.crates";
const deadLetters = "muster.dead-letters.reliability";

const remembering: Handlers = {
  moved: async (tx, events) => void tx.effects.push(...events.map(({ payload }) => `moved ${payload.n}`)),
  broke: async (tx, events) => void tx.effects.push(...events.map(({ payload }) => `broke ${payload.n}`)),
};

describe("subscriptions", function () {
  this.timeout(40_000);
  let bench: Bench;
  before(async () => {
    bench = await setup();
  });
  afterEach(() => bench.rest());
  after(() => bench.close());

  const event = (n: number, id: string = randomUUID()) => prepareEvent(moved, { n }, { context, id });

  async function subscribed(handlers: Partial<Handlers> = {}) {
    const broker = await bench.open({ service: "reliability" });
    const run = rememberingRunner();
    const consumer = await broker.subscribe(crates, run, { ...remembering, ...handlers });
    return { broker, consumer, effects: run.effects };
  }

  const outcomes = (broker: Broker, outcome: string) =>
    bench.metric(broker, "muster_consumer_deliveries_total", { queue, outcome });

  it("handles events in the order of their publishing, also across kinds", async () => {
    const { broker, effects } = await subscribed();
    const expected: string[] = [];
    for (let n = 0; n < 120; n++) {
      const of = n % 3 === 0 ? broke : moved;
      expected.push(`${n % 3 === 0 ? "broke" : "moved"} ${n}`);
      void broker.publish(prepareEvent(of, { n }, { context }));
    }
    await eventually(() => effects.length === expected.length);
    expect(effects).to.deep.equal(expected);
  });

  it("answers twenty concurrent deliveries of one message, at two consumers, with one effect", async () => {
    const run = rememberingRunner();
    const one = await bench.open();
    const two = await bench.open();
    await one.subscribe(crates, run, remembering);
    await two.subscribe(crates, run, remembering);
    const id = randomUUID();
    await Promise.all(Array.from({ length: 20 }, () => one.publish(event(1, id))));
    await eventually(async () => {
      const duplicates = (await outcomes(one, "duplicate")) + (await outcomes(two, "duplicate"));
      return duplicates === 19;
    });
    expect(run.effects).to.deep.equal(["moved 1"]);
  });

  it("isolates the failure of one message in a batch; it alone goes up the ladder and succeeds there", async () => {
    const attempts: number[] = [];
    const { broker, effects } = await subscribed({
      moved: async (tx, events) => {
        for (const { payload, context: of } of events) {
          if (payload.n === 13) attempts.push(of.attempt);
          if (payload.n === 13 && of.attempt === 1) throw new Error("not yet");
          tx.effects.push(String(payload.n));
        }
      },
    });
    const startedMs = performance.now();
    await Promise.all(Array.from({ length: 30 }, (_, n) => broker.publish(event(n))));
    await eventually(() => effects.length === 30);
    expect([...effects].sort((a, b) => Number(a) - Number(b))).to.deep.equal(
      Array.from({ length: 30 }, (_, n) => String(n)),
    );
    expect(effects.at(-1)).to.equal("13");
    expect(attempts.at(-1)).to.equal(2);
    expect(performance.now() - startedMs).to.be.greaterThan(900);
    await eventually(async () => (await outcomes(broker, "acked")) === 30);
    expect(await outcomes(broker, "retried")).to.equal(1);
  });

  it("dead-letters with its reason what still fails at the top of the ladder, with the same id", async () => {
    const { broker } = await subscribed({
      moved: async () => {
        throw new Error("never works");
      },
    });
    const message = event(1);
    await broker.publish(message);
    const dead = await eventually(async () => (await bench.vhost.take(deadLetters))[0]);
    expect(dead.routing_key).to.equal(queue);
    expect(dead.properties.message_id).to.equal(message.id);
    expect(dead.properties.headers).to.include({
      "x-muster-error-code": "INTERNAL",
      "x-muster-error-message": "never works",
      "x-muster-retry-of": queue,
      cloudEvents_attempt: "2",
    });
    expect(Date.parse(String(dead.properties.headers["x-muster-failed-at"]))).to.be.closeTo(
      Date.now(),
      60_000,
    );
  });

  it("dead-letters at once what breaks its contract, is unknown, cannot be read or fails for good", async () => {
    const { broker, effects } = await subscribed({
      broke: async () => {
        throw new MusterError("FORBIDDEN");
      },
    });
    const other = { ...JSON.parse(event(1).body), type: "vm-ops.crate.sung.v1", id: randomUUID() } as object;
    const bad = { ...JSON.parse(event(1).body), data: { n: "one" }, id: randomUUID() } as object;
    const properties = { content_type: "application/cloudevents+json" };
    const as = loginName("vm-ops");
    await bench.vhost.publish({ as, routingKey: queue, properties, payload: JSON.stringify(other) });
    await bench.vhost.publish({ as, routingKey: queue, properties, payload: JSON.stringify(bad) });
    await bench.vhost.publish({ as, routingKey: queue, properties, payload: "rubbish" });
    await broker.publish(prepareEvent(broke, { n: 1 }, { context }));
    await broker.publish(event(2));
    await eventually(() => effects.includes("moved 2"));
    const codes: unknown[] = [];
    await eventually(async () => {
      for (const message of await bench.vhost.take(deadLetters)) {
        codes.push(
          message.properties.headers["x-muster-error-code"] ??
            message.properties.headers["x-first-death-reason"],
        );
      }
      return codes.length === 4;
    });
    expect(codes).to.have.members(["UNSUPPORTED_MESSAGE", "CONTRACT_VIOLATION", "rejected", "FORBIDDEN"]);
  });

  it("drops and counts what has been overtaken", async () => {
    const seen: string[] = [];
    const { broker, effects } = await subscribed({
      moved: async (_tx, events) => void seen.push(...events.map(({ id }) => id)),
      broke: async () => {
        throw new MusterError("STALE_TOKEN");
      },
    });
    await broker.publish(prepareEvent(broke, { n: 1 }, { context }));
    const send = (id: string) => broker.publish(event(9, id));
    expect(await seenBeforeSentinel(send, () => seen)).to.deep.equal([]);
    expect(effects).to.deep.equal([]);
    expect(await outcomes(broker, "dropped")).to.equal(1);
    expect(await bench.vhost.take(deadLetters)).to.deep.equal([]);
  });

  it("understands events of other clients in binary mode, under each prefix", async () => {
    const { effects } = await subscribed();
    const attributes = {
      specversion: "1.0",
      type: moved.name,
      source: "/elsewhere",
      time: new Date().toISOString(),
    };
    for (const [n, prefix] of ["cloudEvents_", "cloudEvents:", "ce-"].entries()) {
      const headers = Object.fromEntries(
        Object.entries({ ...attributes, id: randomUUID() }).map(([name, value]) => [
          `${prefix}${name}`,
          value,
        ]),
      );
      const properties = { content_type: "application/json", headers };
      await bench.vhost.publish({
        as: loginName("vm-ops"),
        exchange: "muster.vm-ops.events",
        routingKey: moved.name,
        properties,
        payload: `{"n":${n}}`,
      });
    }
    await eventually(() => effects.length === 3);
    expect(effects).to.deep.equal(["moved 0", "moved 1", "moved 2"]);
  });

  it("loses nothing and repeats no effect when it drains mid-handler and another takes over", async () => {
    const gate = gateOf();
    const run = rememberingRunner();
    const first = await bench.open();
    const slow: Handlers = {
      ...remembering,
      moved: async (tx, events) => {
        await gate.promise;
        await remembering.moved(tx, events);
      },
    };
    const consumer = await first.subscribe(crates, run, slow);
    await Promise.all(Array.from({ length: 200 }, (_, n) => first.publish(event(n))));
    await eventually(async () => (await bench.metric(first, "muster_consumer_in_flight", { queue })) >= 50);
    const closing = consumer.close();
    gate.resolve();
    await closing;
    expect(run.effects.length).to.be.lessThan(200);
    const second = await bench.open();
    await second.subscribe(crates, run, remembering);
    await eventually(() => run.effects.length === 200);
    expect(new Set(run.effects).size).to.equal(200);
  });

  it("gives each effect once while links are cut and channels closed under it", async () => {
    const link = await bench.link();
    const broker = await bench.open({ via: link });
    const run = rememberingRunner();
    await broker.subscribe(crates, run, remembering);
    const publisher = await bench.open();
    for (let round = 0; round < 4; round++) {
      await Promise.all(Array.from({ length: 100 }, (_, n) => publisher.publish(event(round * 100 + n))));
      if (round % 2 === 0) link.cut();
      else link.killChannels();
    }
    await eventually(() => run.effects.length >= 400, 20_000);
    expect(new Set(run.effects).size).to.equal(400);
    expect(run.effects).to.have.length(400);
  });
});
