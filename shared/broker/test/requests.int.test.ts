import { replyType } from "@muster/contracts/envelope";
import { MusterError, type ErrorCode } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { agentLoginName } from "@muster/contracts/senders";
import type { Principal } from "@muster/contracts/principal";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import type { Broker, RequestHandlers } from "../src/broker.ts";
import { prepareRequest } from "../src/prepare.ts";
import { double, hello, nobody, square, unknown, vmOpsRequests, whoAmI } from "./sample-mesh.ts";
import { context, gateOf, setup, type Bench } from "./setup.ts";

const agentId = uuidv7();
const principal: Principal = { tenant_id: "acme", subject: "user:1", roles: ["member"], permissions: [] };

async function codeOf(asking: Promise<unknown>): Promise<ErrorCode | "no error"> {
  return asking.then(
    () => "no error" as const,
    (error: unknown) => {
      if (error instanceof MusterError) return error.code;
      throw error;
    },
  );
}

const plain: RequestHandlers<typeof vmOpsRequests> = {
  double: async ({ n }) => ({ doubled: n * 2 }),
  whoAmI: async (_payload, { principal: who }) => ({
    subject: who?.subject ?? "?",
    tenant: who?.tenant_id ?? "?",
  }),
  square: async (items) => items.map(({ payload: { n } }) => ({ squared: n * n })),
};

describe("requests", function () {
  this.timeout(30_000);
  let bench: Bench;
  before(async () => {
    bench = await setup();
  });
  afterEach(() => bench.rest());
  after(() => bench.close());

  async function serving(handlers: Partial<typeof plain> = {}): Promise<{ owner: Broker; asker: Broker }> {
    const owner = await bench.open({
      identify: async (token) => {
        if (token === "good") return principal;
        throw new MusterError("INVALID_OR_MISSING_BEARER_TOKEN");
      },
    });
    await owner.serve("vm-ops", vmOpsRequests, { ...plain, ...handlers });
    return { owner, asker: await bench.open({ service: "gateway" }) };
  }

  it("answers each of many at once with its own reply", async () => {
    const { asker } = await serving();
    const replies = await Promise.all(
      Array.from({ length: 500 }, (_, n) => asker.request(double, { n }, context)),
    );
    expect(replies.map(({ doubled }) => doubled)).to.deep.equal(Array.from({ length: 500 }, (_, n) => n * 2));
  });

  it("hands the caller's identity to the handler and refuses who has none", async () => {
    const { asker } = await serving();
    const reply = await asker.request(whoAmI, {}, { ...context, identity: "good" });
    expect(reply).to.deep.equal({ subject: "user:1", tenant: "acme" });
    const refused = await codeOf(asker.request(whoAmI, {}, { ...context, identity: "bad" }));
    expect(refused).to.equal("INVALID_OR_MISSING_BEARER_TOKEN");
    expect(await codeOf(asker.request(whoAmI, {}, context))).to.equal("INVALID_OR_MISSING_BEARER_TOKEN");
  });

  it("carries a handler's own refusal with its details, and hides what it did not mean to say", async () => {
    const { asker } = await serving({
      double: async ({ n }) => {
        if (n === 1)
          throw new MusterError("VM_NOT_FOUND", "no such crate", {
            details: [{ path: "n", message: "gone" }],
          });
        throw new Error("password=hunter2");
      },
    });
    const known: unknown = await asker.request(double, { n: 1 }, context).catch((e: unknown) => e);
    expect(known).to.include({ code: "VM_NOT_FOUND", message: "no such crate" });
    expect(known).to.have.deep.property("details", [{ path: "n", message: "gone" }]);
    const hidden: unknown = await asker.request(double, { n: 2 }, context).catch((e: unknown) => e);
    expect(hidden).to.have.property("code", "INTERNAL");
    expect(hidden).to.have.property("message").that.does.not.include("hunter2");
  });

  it("says DEPENDENCY_UNAVAILABLE at once when the owner's queue is not there", async () => {
    const asker = await bench.open();
    const failure: unknown = await asker.request(nobody, {}, context).catch((e: unknown) => e);
    expect(failure).to.have.property("code", "DEPENDENCY_UNAVAILABLE");
    expect(failure).to.have.property("retryAfterMs").that.is.greaterThan(0);
  });

  it("says DEADLINE_EXCEEDED when nobody answers in time, or the asker gives up", async () => {
    const asker = await bench.open();
    expect(await codeOf(asker.request(double, { n: 1 }, context, { timeoutMs: 200 }))).to.equal(
      "DEADLINE_EXCEEDED",
    );
    const giveUp = new AbortController();
    const asking = codeOf(asker.request(double, { n: 1 }, context, { signal: giveUp.signal }));
    giveUp.abort();
    expect(await asking).to.equal("DEADLINE_EXCEEDED");
  });

  it("drops a request whose asker has gone, counts it, and leaves nothing in the dead letters", async () => {
    const asker = await bench.open();
    const time = new Date(Date.now() - 60_000).toISOString();
    const message = prepareRequest(
      double,
      { n: 1 },
      {
        context,
        source: "/muster/gateway",
        exchange: "",
        routingKey: "vm-ops.requests",
        timeoutMs: 1_000,
      },
    );
    const old = { ...(JSON.parse(message.body) as object), time };
    await bench.vhost.publish({
      as: "muster-gateway",
      routingKey: "vm-ops.requests",
      payload: JSON.stringify(old),
      properties: { content_type: "application/cloudevents+json" },
    });
    const handled: number[] = [];
    const { owner } = await serving({
      double: async ({ n }) => {
        handled.push(n);
        return { doubled: n };
      },
    });
    await asker.request(double, { n: 7 }, context);
    expect(handled).to.deep.equal([7]);
    const late = { queue: "vm-ops.requests", outcome: "late" };
    expect(await bench.metric(owner, "muster_consumer_deliveries_total", late)).to.equal(1);
    expect(await bench.vhost.take("muster.dead-letters.vm-ops")).to.deep.equal([]);
  });

  it("refuses an invalid payload at the asker, and at the owner with each fault by path", async () => {
    const { asker } = await serving();
    // @ts-expect-error the contract wants a number
    expect(await codeOf(asker.request(double, { n: "one" }, context))).to.equal("CONTRACT_VIOLATION");
    const loose = { ...double, payload: unknown.payload };
    const failure: unknown = await asker.request(loose, {}, context).catch((e: unknown) => e);
    expect(failure).to.have.property("code", "VALIDATION_FAILED");
    expect(failure).to.have.nested.property("details[0].path", "n");
  });

  it("answers UNSUPPORTED_MESSAGE to a type that it does not know", async () => {
    const { asker } = await serving();
    expect(await codeOf(asker.request(unknown, {}, context))).to.equal("UNSUPPORTED_MESSAGE");
  });

  it("never lets a reply through that breaks the contract", async () => {
    // @ts-expect-error a reply of the wrong shape
    const { asker } = await serving({ double: async () => ({ doubled: "two" }) });
    expect(await codeOf(asker.request(double, { n: 1 }, context))).to.equal("CONTRACT_VIOLATION");
  });

  it("puts what cannot be read into the dead letters and goes on", async () => {
    const { asker } = await serving();
    await bench.vhost.publish({ routingKey: "vm-ops.requests", payload: "{not json" });
    const dead = await eventually(async () => {
      const [message] = await bench.vhost.take("muster.dead-letters.vm-ops");
      return message;
    });
    expect(dead.routing_key).to.equal("vm-ops.requests");
    expect(JSON.stringify(dead.properties.headers)).to.include("rejected");
    expect((await asker.request(double, { n: 2 }, context)).doubled).to.equal(4);
  });

  it("handles a request without an address to reply to, and never writes into a queue of the asker's choice", async () => {
    const handled: number[] = [];
    const { asker } = await serving({
      double: async ({ n }) => {
        handled.push(n);
        return { doubled: n };
      },
    });
    for (const replyTo of [undefined, "reliability.crates"]) {
      const to = { context, source: "/x", exchange: "", routingKey: "vm-ops.requests", timeoutMs: 5_000 };
      const properties = {
        content_type: "application/cloudevents+json",
        ...(replyTo && { reply_to: replyTo }),
      };
      const payload = prepareRequest(double, { n: 1 }, to).body;
      const sent = { as: "muster-gateway", routingKey: "vm-ops.requests", payload, properties };
      await bench.vhost.publish(sent);
    }
    await asker.request(double, { n: 9 }, context);
    expect(handled).to.deep.equal([1, 1, 9]);
    expect(await bench.vhost.take("reliability.crates")).to.deep.equal([]);
  });

  it("hands a batch contract many at once, and one bad item fails alone", async () => {
    const sizes: number[] = [];
    const { asker } = await serving({
      square: async (items) => {
        sizes.push(items.length);
        if (items.some(({ payload }) => payload.n === 13)) throw new Error("thirteen");
        return items.map(({ payload: { n } }) =>
          n === 5 ? new MusterError("VM_NOT_FOUND") : { squared: n * n },
        );
      },
    });
    const outcomes = await Promise.all(
      Array.from({ length: 40 }, (_, n) =>
        asker.request(square, { n }, context).then(
          ({ squared }) => squared,
          (error: unknown) => (error instanceof MusterError ? error.code : "?"),
        ),
      ),
    );
    expect(Math.max(...sizes)).to.be.greaterThan(1);
    expect(Math.max(...sizes)).to.be.at.most(20);
    outcomes.forEach((outcome, n) => {
      expect(outcome).to.equal(n === 13 ? "INTERNAL" : n === 5 ? "VM_NOT_FOUND" : n * n);
    });
  });

  it("answers at once when the connection is lost while waiting, and asks again afterwards", async () => {
    const link = await bench.link();
    const asker = await bench.open({ via: link });
    await eventually(() => asker.health().ok);
    const asking = codeOf(asker.request(double, { n: 1 }, context, { timeoutMs: 20_000 }));
    await eventually(async () => (await bench.vhost.take("vm-ops.requests")).length === 1);
    link.cut();
    expect(await asking).to.equal("DEPENDENCY_UNAVAILABLE");
    const owner = await bench.open();
    await owner.serve("vm-ops", { double }, { double: plain.double });
    expect((await asker.request(double, { n: 3 }, context)).doubled).to.equal(6);
  });

  it("goes on serving after its link is cut and after its channels are closed", async () => {
    const link = await bench.link();
    const owner = await bench.open({ via: link });
    await owner.serve("vm-ops", { double }, { double: plain.double });
    const asker = await bench.open();
    for (const fault of [() => link.cut(), () => link.killChannels(), () => link.cut()]) {
      fault();
      const reply = await eventually(
        () => asker.request(double, { n: 4 }, context, { timeoutMs: 1_000 }),
        15_000,
      );
      expect(reply.doubled).to.equal(8);
    }
    await eventually(() => owner.health().ok);
  });

  it("loses no request when it drains mid-handler: what runs is answered, what waits goes to another", async () => {
    const gate = gateOf();
    const started: number[] = [];
    const { owner, asker } = await serving({
      square: async (items) => {
        started.push(...items.map(({ payload }) => payload.n));
        await gate.promise;
        return items.map(({ payload: { n } }) => ({ squared: n * n }));
      },
    });
    const asking = Promise.all(Array.from({ length: 100 }, (_, n) => asker.request(square, { n }, context)));
    await eventually(() => started.length === 40);
    const closing = owner.close();
    const second = await bench.open();
    await second.serve("vm-ops", { square }, { square: plain.square });
    gate.resolve();
    expect((await asking).map(({ squared }) => squared)).to.deep.equal(
      Array.from({ length: 100 }, (_, n) => n * n),
    );
    await closing;
    expect(started).to.have.length(40);
  });

  it("takes tenant and agent of a report from the routing key, never from the body", async () => {
    const owner = await bench.open();
    await owner.serveReports(
      "vm-ops.agents",
      { hello },
      {
        hello: async (items) =>
          items.map(({ payload, context: from }) => ({
            tenant: from.tenantId,
            agent: from.agentId,
            n: payload.n,
          })),
      },
    );
    const agent = await bench.open({ name: "agent", login: agentLoginName(agentId) });
    const from = { tenantId: "acme", agentId };
    const lying = { ...context, tenantId: "victim" };
    expect(await agent.report(hello, { n: 1 }, from, lying)).to.deep.equal({
      tenant: "acme",
      agent: agentId,
      n: 1,
    });
    const to = { context: lying, source: "/x", exchange: "", routingKey: "vm-ops.agents", timeoutMs: 5_000 };
    const payload = prepareRequest(hello, { n: 2 }, to).body;
    await bench.vhost.publish({
      as: agentLoginName(agentId),
      routingKey: "vm-ops.agents",
      payload,
      properties: { content_type: "application/cloudevents+json" },
    });
    expect(await agent.report(hello, { n: 3 }, from, context)).to.have.property("n", 3);
  });

  it("parks what an agent sends that nobody takes", async () => {
    const agent = await bench.open({ name: "agent", login: agentLoginName(agentId) });
    const from = { tenantId: "acme", agentId };
    const odd = { ...hello, report: "sing" };
    expect(await codeOf(agent.report(odd, { n: 1 }, from, context, { timeoutMs: 200 }))).to.equal(
      "DEADLINE_EXCEEDED",
    );
    const [parked] = await bench.vhost.take("muster.agents.unrouted");
    expect(parked?.routing_key).to.equal(`agents.acme.${agentId}.sing`);
    expect(parked?.properties.type).to.equal(hello.name).and.not.equal(replyType(hello.name));
  });
});
