import { MusterError } from "@muster/contracts/errors";
import { defineEvent, defineSubscription } from "@muster/contracts/define";
import { uuidv7 } from "@muster/contracts/ids";
import type { PreparedMessage } from "@muster/contracts/message";
import { agentLoginName, loginName } from "@muster/contracts/senders";
import { topologyOf, vmQueue } from "@muster/contracts/topology";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { connect } from "amqplib";
import { expect } from "chai";
import { z } from "zod";
import type { Broker } from "../src/broker.ts";
import { prepareDoorbell, prepareEvent, prepareRequest } from "../src/prepare.ts";
import { replyCodeOf } from "../src/queues.ts";
import { applyTopology } from "../src/topology-apply.ts";
import { bell, crates, double, hello, moved, sampleMesh } from "./sample-mesh.ts";
import { context, rememberingRunner, setup, type Bench } from "./setup.ts";

const contentType = "application/cloudevents+json";
const agentId = uuidv7();
const from = { tenantId: "acme", agentId };

/** What vm-ops subscribes to of another's, as reliability subscribes to everything of its own accord here. */
const faded = defineEvent({
  name: "reliability.crate.faded.v1",
  summary: "A crate faded.",
  owner: "reliability",
  payload: z.object({ n: z.number().int() }),
});
const fadings = defineSubscription({
  service: "vm-ops",
  name: "fadings",
  summary: "What faded.",
  events: { faded },
  retry: { tiers: ["1s"] },
});

async function codeOf(asking: Promise<unknown>): Promise<string> {
  return asking.then(
    () => "taken",
    (error: unknown) => (error instanceof MusterError ? error.code : String(error)),
  );
}

describe("who sent a message, by the broker's word", function () {
  this.timeout(60_000);
  let bench: Bench;
  before(async () => {
    bench = await setup();
    const more = { events: [...sampleMesh.events, faded], subscriptions: [crates, fadings] };
    await applyTopology(topologyOf({ ...sampleMesh, ...more }), bench.vhost);
  });
  afterEach(() => bench.rest());
  after(() => bench.close());

  const forged = (broker: Broker, kind: string, reason: string) =>
    bench.metric(broker, "muster_mesh_forged_total", { kind, reason });

  /** Straight into a queue, past every exchange, as this login or as nobody. */
  const put = (message: PreparedMessage, queue: string, as?: string, more: object = {}) =>
    bench.vhost.publish({
      ...(as === undefined ? {} : { as }),
      routingKey: queue,
      payload: message.body,
      properties: { content_type: contentType, message_id: message.id, ...more },
    });

  const doubling = (n: number) =>
    prepareRequest(
      double,
      { n },
      { context, source: "/muster/gateway", exchange: "", routingKey: "x", timeoutMs: 9_000 },
    );

  it("cannot be given by the sender: the broker takes no name but the connection's", async () => {
    const model = await connect(await bench.vhost.urlAs(loginName("auth")));
    const channel = await model.createConfirmChannel();
    const refused = new Promise((resolve) => channel.on("error", (error) => resolve(replyCodeOf(error))));
    channel.publish("", "vm-ops.requests", Buffer.from("x"), { userId: loginName("gateway") });
    expect(await refused).to.equal(406);
    await model.close();
  });

  it("is on everything that is published, also on what comes back after a retry", async () => {
    const broker = await bench.open({ service: "vm-ops" });
    const seen: (string | undefined)[] = [];
    await broker.consume("vm-ops.fadings", { prefetch: 10 }, (delivery) => {
      seen.push(delivery.userId?.split("@")[0]);
      delivery.ack();
    });
    const owner = await bench.open({ service: "reliability" });
    await owner.publish(prepareEvent(faded, { n: 1 }, { context }));
    const retried = prepareEvent(faded, { n: 2 }, { context });
    await broker.publish({ ...retried, exchange: "vm-ops.retry.1s", routingKey: "vm-ops.fadings" });
    await eventually(() => seen.length === 2);
    expect(seen).to.deep.equal([loginName("reliability"), loginName("vm-ops")]);
  });

  it("decides who is answered: no service but a caller of the contract, no agent, no administrator", async () => {
    const handled: number[] = [];
    const owner = await bench.open();
    await owner.serve(
      "vm-ops",
      { double },
      {
        double: async ({ n }, { asker }) => {
          handled.push(n);
          expect(asker).to.be.oneOf(["gateway", "vm-ops"]);
          return { doubled: n * 2 };
        },
      },
    );
    const ask = async (login: string, n: number) =>
      codeOf((await bench.open({ login })).request(double, { n }, context));
    expect(await ask(loginName("gateway"), 1)).to.equal("taken");
    for (const login of ["muster-auth", "muster-reliability", "muster-topology", agentLoginName(agentId)]) {
      expect(await ask(login, 2), login).to.equal("FORBIDDEN");
    }
    const admin = await bench.open({ url: bench.vhost.amqpUrl });
    expect(await codeOf(admin.request(double, { n: 3 }, context))).to.equal("FORBIDDEN");
    expect(handled).to.deep.equal([1]);
    expect(await forged(owner, "request", "other_sender")).to.equal(4);
    expect(await forged(owner, "request", "unknown_sender")).to.equal(1);
  });

  it("is asked for also where nobody waits for an answer: what names none is kept for people, unhandled", async () => {
    const handled: number[] = [];
    const owner = await bench.open();
    await owner.serve(
      "vm-ops",
      { double },
      {
        double: async ({ n }) => {
          handled.push(n);
          return { doubled: n };
        },
      },
    );
    await put(doubling(1), "vm-ops.requests");
    await put(doubling(2), "vm-ops.requests", loginName("auth"));
    await put(doubling(3), "vm-ops.requests", loginName("gateway"));
    await eventually(() => handled.length === 1);
    expect(handled).to.deep.equal([3]);
    expect(await forged(owner, "request", "no_sender")).to.equal(1);
    const dead: unknown[] = [];
    await eventually(async () => {
      dead.push(...(await bench.vhost.take("muster.dead-letters.vm-ops")));
      return dead.length === 2;
    });
  });

  it("is the agent in a report's routing key, whoever else may write there", async () => {
    const owner = await bench.open();
    const answer = {
      hello: async (items: readonly unknown[]) => items.map(() => ({ tenant: "t", agent: "a", n: 1 })),
    };
    await owner.serveReports("vm-ops.agents", { hello }, answer);
    const report = async (login: string, as = from) =>
      codeOf((await bench.open({ login, name: "agent" })).report(hello, { n: 1 }, as, context));
    expect(await report(agentLoginName(agentId))).to.equal("taken");
    expect(await report(agentLoginName(agentId, { epoch: 7 }))).to.equal("taken");
    expect(await report(agentLoginName(uuidv7()))).to.equal("FORBIDDEN");
    expect(await report(loginName("reliability"))).to.equal("FORBIDDEN");
    expect(await report(agentLoginName(agentId), { ...from, agentId: uuidv7() })).to.equal("FORBIDDEN");
    expect(await forged(owner, "report", "other_sender")).to.equal(3);
  });

  it("is an event's owner, or who replays dead letters; what others tell is a dead letter that says so", async () => {
    const subscriber = await bench.open({ service: "reliability" });
    const run = rememberingRunner();
    const remember = async (tx: { effects: string[] }, events: readonly { payload: { n: number } }[]) =>
      void tx.effects.push(...events.map(({ payload }) => String(payload.n)));
    await subscriber.subscribe(crates, run, { moved: remember, broke: remember });
    const told = (n: number) => prepareEvent(moved, { n }, { context });
    await put(told(1), "reliability.crates", loginName("auth"));
    await put(told(2), "reliability.crates", agentLoginName(agentId));
    await put(told(3), "reliability.crates");
    await put(told(4), "reliability.crates", loginName("vm-ops"));
    await put(told(5), "reliability.crates", loginName("reliability"));
    await eventually(() => run.effects.length === 2);
    expect(run.effects).to.deep.equal(["4", "5"]);
    const codes: unknown[] = [];
    await eventually(async () => {
      const taken = await bench.vhost.take("muster.dead-letters.reliability");
      codes.push(...taken.map(({ properties }) => properties.headers["x-muster-error-code"]));
      return codes.length === 3;
    });
    expect(codes).to.deep.equal(["FORBIDDEN", "FORBIDDEN", "FORBIDDEN"]);
    expect(await forged(subscriber, "event", "other_sender")).to.equal(2);
    expect(await forged(subscriber, "event", "no_sender")).to.equal(1);
  });

  it("may be the subscriber itself for its own retries, and for nothing else", async () => {
    const subscriber = await bench.open({ service: "vm-ops" });
    const run = rememberingRunner();
    let failures = 0;
    await subscriber.subscribe(fadings, run, {
      faded: async (tx, events) => {
        if (events.some(({ context: of }) => of.attempt === 1) && failures++ === 0)
          throw new Error("not yet");
        tx.effects.push(...events.map(({ payload }) => String(payload.n)));
      },
    });
    const owner = await bench.open({ service: "reliability" });
    await owner.publish(prepareEvent(faded, { n: 1 }, { context }));
    await eventually(() => run.effects.length === 1);
    await put(prepareEvent(faded, { n: 2 }, { context }), "vm-ops.fadings", loginName("vm-ops"));
    await eventually(async () => (await forged(subscriber, "event", "other_sender")) === 1);
    expect(run.effects).to.deep.equal(["1"]);
  });

  it("decides what is heard; what is not believed counts as missed", async () => {
    const hearer = await bench.open({ service: "reliability" });
    const seen = { heard: [] as number[], missed: 0 };
    await hearer.hear(moved, { heard: ({ n }) => seen.heard.push(n), missed: () => (seen.missed += 1) });
    for (const as of [loginName("auth"), undefined, loginName("vm-ops")]) {
      const { body: payload, exchange, routingKey } = prepareEvent(moved, { n: 1 }, { context });
      const properties = { content_type: contentType };
      await bench.vhost.publish({
        ...(as === undefined ? {} : { as }),
        exchange,
        routingKey,
        payload,
        properties,
      });
    }
    await eventuallyHolds(() => expect(seen).to.deep.equal({ heard: [1], missed: 2 }));
    expect(await forged(hearer, "event", "other_sender")).to.equal(1);
  });

  it("decides which doorbells are taken out of a VM's queue", async () => {
    const owner = await bench.open();
    const queue = vmQueue("acme", uuidv7());
    await owner.ensureVmQueue(queue);
    const agent = await bench.open({ login: agentLoginName(agentId), name: "agent" });
    const rung: (string | undefined)[] = [];
    await agent.consume(queue, { prefetch: 10, doorbell: bell }, (delivery) => {
      rung.push(delivery.userId?.split("@")[0]);
      delivery.ack();
    });
    const ring = (n: number) => prepareDoorbell(bell, { n }, { context, tenantId: "acme", queue });
    for (const as of ["muster-auth", "muster-gateway", agentLoginName(uuidv7()), undefined]) {
      await put(ring(1), queue, as);
    }
    await put(ring(2), queue, loginName("reliability"));
    expect((await owner.publish(ring(3))).kind).to.equal("routed");
    await eventually(() => rung.length === 2);
    expect(rung).to.deep.equal([loginName("reliability"), loginName("vm-ops")]);
    expect(await forged(agent, "doorbell", "other_sender")).to.equal(3);
    expect(await forged(agent, "doorbell", "no_sender")).to.equal(1);
    await agent.close();
    await owner.deleteQueue(queue);
  });

  it("is the owner of a request in its reply: nobody else answers it", async () => {
    const asker = await bench.open({ service: "gateway" });
    const strange = await bench.open({ login: loginName("auth") });
    await strange.serve("vm-ops", { double }, { double: async ({ n }) => ({ doubled: n * 3 }) });
    strange.health();
    const asking = codeOf(
      asker.request({ ...double, callers: ["gateway"] }, { n: 1 }, context, { timeoutMs: 700 }),
    );
    expect(await asking).to.equal("DEADLINE_EXCEEDED");
    expect(await forged(asker, "reply", "other_sender")).to.equal(1);
  });
});
