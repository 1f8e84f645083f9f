import { randomUUID } from "node:crypto";
import { vmQueue } from "@muster/contracts/topology";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import { openBroker } from "../src/broker.ts";
import { prepareDoorbell, prepareEvent } from "../src/prepare.ts";
import { bell, lost, moved, unheard } from "./sample-mesh.ts";
import { context, logger, setup, type Bench } from "./setup.ts";
import { createMetrics } from "@muster/telemetry/metrics";

describe("publishing", function () {
  this.timeout(30_000);
  let bench: Bench;
  before(async () => {
    bench = await setup();
  });
  afterEach(() => bench.rest());
  after(() => bench.close());

  const event = (n: number) => prepareEvent(moved, { n }, { context });

  it("answers routed only for what a queue has", async () => {
    const broker = await bench.open();
    expect(await broker.publish(event(1))).to.deep.equal({ kind: "routed" });
    const [message] = await bench.vhost.take("reliability.crates");
    expect(message?.properties.headers["cloudEvents_type"]).to.equal(moved.name);
    expect(JSON.parse(message?.payload ?? "")).to.have.nested.property("data.n", 1);
  });

  it("answers unroutable for what no queue takes, and routed for its neighbours with the same id", async () => {
    const broker = await bench.open();
    const id = randomUUID();
    const verdicts = await Promise.all([
      broker.publish(prepareEvent(unheard, { n: 1 }, { context, id })),
      broker.publish(prepareEvent(moved, { n: 2 }, { context, id })),
      broker.publish(prepareEvent(unheard, { n: 3 }, { context })),
    ]);
    expect(verdicts.map(({ kind }) => kind)).to.deep.equal(["unroutable", "routed", "unroutable"]);
    expect(await bench.vhost.take("reliability.crates")).to.have.length(1);
  });

  it("tells a message to an exchange that is not there from its neighbours, which still arrive", async () => {
    const broker = await bench.open();
    const verdicts = await Promise.all([
      ...Array.from({ length: 50 }, (_, n) => broker.publish(event(n))),
      broker.publish(prepareEvent(lost, { n: 1 }, { context })),
      ...Array.from({ length: 50 }, (_, n) => broker.publish(event(n))),
    ]);
    expect(verdicts[50]?.kind).to.equal("unroutable");
    expect(verdicts.filter(({ kind }) => kind === "routed")).to.have.length(100);
    const ids = new Set(
      (await bench.vhost.take("reliability.crates", 500)).map((m) => m.properties.message_id),
    );
    expect(ids.size).to.equal(100);
  });

  it("answers nacked when the queue is full", async () => {
    const broker = await bench.open();
    const queue = vmQueue("acme", randomUUID());
    await broker.ensureVmQueue(queue);
    const ring = () => broker.publish(prepareDoorbell(bell, { n: 1 }, { context, tenantId: "acme", queue }));
    const kinds = new Set<string>();
    await eventually(async () => {
      for (const verdict of await Promise.all(Array.from({ length: 60 }, ring))) kinds.add(verdict.kind);
      return kinds.has("nacked");
    });
    expect([...kinds]).to.have.members(["routed", "nacked"]);
    await broker.deleteQueue(queue);
    expect(await broker.queueExists(queue)).to.equal(false);
  });

  it("delivers every message once its link is back, without the publisher noticing", async () => {
    const link = await bench.link();
    const broker = await bench.open({ via: link });
    const publishing = Array.from({ length: 500 }, (_, n) => broker.publish(event(n), { timeoutMs: 20_000 }));
    await Promise.race(publishing);
    link.cut();
    const verdicts = await Promise.all(publishing);
    expect(verdicts.every(({ kind }) => kind === "routed")).to.equal(true);
    const numbers = new Set<number>();
    await eventually(async () => {
      for (const { payload } of await bench.vhost.take("reliability.crates", 1_000)) {
        numbers.add((JSON.parse(payload) as { data: { n: number } }).data.n);
      }
      return numbers.size === 500;
    });
  });

  it("publishes again after the broker has closed the channel alone", async () => {
    const link = await bench.link();
    const broker = await bench.open({ via: link });
    await broker.publish(event(1));
    link.killChannels();
    await eventually(() => !broker.health().ok);
    expect(broker.state).to.equal("connected");
    expect((await broker.publish(event(2))).kind).to.equal("routed");
    await eventually(() => broker.health().ok);
  });

  it("reconnects when the broker closes the connection", async () => {
    const broker = await bench.open({ name: "closed-by-operator" });
    await eventually(async () => (await bench.vhost.closeConnections("closed-by-operator")) === 2, 20_000);
    await eventually(() => broker.state === "connected" && broker.health().ok);
    expect((await broker.publish(event(1))).kind).to.equal("routed");
  });

  it("answers unknown, not routed, when no confirm comes, and refused when it was never sent", async () => {
    const link = await bench.link();
    const broker = await bench.open({ via: link, publishWindowMax: 1 });
    link.blackhole();
    const [written, waiting] = await Promise.all([
      broker.publish(event(1), { timeoutMs: 300 }),
      broker.publish(event(2), { timeoutMs: 300 }),
    ]);
    expect([written.kind, waiting.kind]).to.deep.equal(["unknown", "refused"]);
  });

  it("notices a link that swallows everything by the heartbeat", async () => {
    const link = await bench.link();
    const broker = await bench.open({ via: link, heartbeatSeconds: 1, connectTimeoutMs: 1_000 });
    link.blackhole();
    await eventually(() => broker.state === "reconnecting", 10_000);
    link.heal();
    await eventually(() => broker.state === "connected");
    expect((await broker.publish(event(1))).kind).to.equal("routed");
  });

  it("refuses after closing and closes twice without harm", async () => {
    const broker = await bench.open();
    await Promise.all([broker.close(), broker.close()]);
    expect((await broker.publish(event(1))).kind).to.equal("refused");
    expect(broker.state).to.equal("closed");
  });

  it("settles everything in flight when closed, and nothing waits for ever", async () => {
    const broker = await bench.open();
    const publishing = Array.from({ length: 300 }, (_, n) => broker.publish(event(n)));
    await broker.close();
    const verdicts = await Promise.all(publishing);
    expect(verdicts.every(({ kind }) => kind === "routed")).to.equal(true);
  });

  it("says at once that a password or a vhost is wrong, and what to do", async () => {
    const wrongPassword = new URL(bench.vhost.amqpUrl);
    wrongPassword.password = "wrong";
    const wrongVhost = new URL(bench.vhost.amqpUrl);
    wrongVhost.pathname = "/no-such-vhost";
    for (const [url, kind, words] of [
      [wrongPassword, "credentials", /user name or password; check both/],
      [wrongVhost, "vhost", /no such vhost.*create it/],
    ] as const) {
      const metrics = createMetrics({ service: "test" });
      const failure: unknown = await openBroker({ url: url.href, name: "test", logger, metrics }).catch(
        (e: unknown) => e,
      );
      expect(failure).to.have.nested.property("refusal.kind", kind);
      expect(failure).to.have.property("message").that.matches(words).and.does.not.include("wrong@");
    }
  });

  it("gives up opening in time when nobody answers", async () => {
    const link = await bench.link();
    link.refuse();
    const failure: unknown = await bench.open({ via: link, openTimeoutMs: 500 }).catch((e: unknown) => e);
    expect(failure).to.have.nested.property("refusal.kind", "unreachable");
  });
});
