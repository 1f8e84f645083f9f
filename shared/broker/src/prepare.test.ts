import { defineDoorbell, defineEvent, defineRequest } from "@muster/contracts/define";
import { headerPrefixes, type Envelope } from "@muster/contracts/envelope";
import { MusterError } from "@muster/contracts/errors";
import { expect } from "chai";
import fc from "fast-check";
import { z } from "zod";
import { prepareCopy, prepareDoorbell, prepareEvent, prepareRequest, publishOptions } from "./prepare.ts";
import { readEnvelope } from "./read-envelope.ts";

const event = defineEvent({
  name: "vm-ops.thing.happened.v1",
  summary: "Something.",
  owner: "vm-ops",
  payload: z.object({ text: z.string(), list: z.array(z.number()).default([]) }),
  payloadBytesMax: 1_000,
});
const bell = defineDoorbell({
  name: "vm-ops.vm.bell.v1",
  summary: "Rings.",
  owner: "vm-ops",
  payload: z.object({}),
});
const ask = defineRequest({
  name: "auth.key.ask.v1",
  summary: "Asks.",
  owner: "auth",
  payload: z.object({}),
  reply: z.object({}),
  codes: [],
});

const words = fc.string({ minLength: 1, maxLength: 40, unit: "binary-ascii" });
const visible = fc.stringMatching(/^[\x21-\x7e]{1,60}$/);
const contexts = fc.record(
  {
    correlationId: visible,
    causationId: words,
    tenantId: fc.stringMatching(/^[a-z0-9][a-z0-9-]{0,20}$/),
    traceparent: fc.constant("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    identity: visible,
  },
  { requiredKeys: ["correlationId"] },
);
const payloads = fc.record({
  text: fc.string({ maxLength: 50 }),
  list: fc.array(fc.integer(), { maxLength: 20 }),
});

const faultOf = (work: () => unknown): unknown => {
  try {
    return work();
  } catch (error) {
    return error;
  }
};

describe("prepared messages", () => {
  it("read back as they were written, for every payload and context", () => {
    fc.assert(
      fc.property(payloads, contexts, (payload, context) => {
        const message = prepareEvent(event, payload, { context, subject: "thing/1", orderingKey: "k" });
        const { contentType = "", headers } = publishOptions(message);
        const read = readEnvelope({ body: Buffer.from(message.body), contentType, headers: headers ?? {} });
        expect(read.data).to.deep.equal(payload);
        expect(read.id).to.equal(message.id);
        expect(read.correlationid).to.equal(context.correlationId);
        expect(read.causationid).to.equal(context.causationId);
        expect(read.tenantid ?? null).to.equal(message.tenantId);
        if (context.traceparent !== undefined) {
          expect(read.traceparent?.slice(0, 36)).to.equal(context.traceparent.slice(0, 36));
          expect(read.traceparent).to.not.equal(context.traceparent);
        }
        expect(read.identity, "events never carry the caller's token").to.equal(undefined);
      }),
      { numRuns: 100 },
    );
  });

  it("mean the same in binary mode under every prefix, from their headers alone", () => {
    fc.assert(
      fc.property(payloads, contexts, fc.constantFrom(...headerPrefixes), (payload, context, prefix) => {
        const message = prepareEvent(event, payload, { context });
        const headers = Object.fromEntries(
          Object.entries(message.headers).map(([name, value]) => [
            name.replace("cloudEvents_", prefix),
            value,
          ]),
        );
        const structured = JSON.parse(message.body) as Envelope;
        const read = readEnvelope({
          body: Buffer.from(JSON.stringify(payload)),
          contentType: "application/json; charset=utf-8",
          headers,
        });
        expect(read).to.deep.equal({ ...structured, data: payload });
      }),
      { numRuns: 100 },
    );
  });

  it("never make readEnvelope throw anything but CONTRACT_VIOLATION, whatever comes", () => {
    const anything = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.json().map((text) => Buffer.from(text)),
    );
    const types = fc.constantFrom("application/cloudevents+json", "application/json", "", undefined);
    fc.assert(
      fc.property(anything, types, fc.dictionary(visible, fc.anything()), (body, contentType, headers) => {
        const outcome = faultOf(() => readEnvelope({ body: Buffer.from(body), contentType, headers }));
        if (outcome instanceof Error)
          expect(outcome).to.be.instanceOf(MusterError).with.property("code", "CONTRACT_VIOLATION");
      }),
      { numRuns: 200 },
    );
  });

  it("are addressed by their contract", () => {
    const context = { correlationId: "c" };
    const fact = prepareEvent(event, { text: "x" }, { context });
    expect([fact.exchange, fact.routingKey, fact.orderingKey]).to.deep.equal([
      "muster.vm-ops.events",
      event.name,
      null,
    ]);
    const ring = prepareDoorbell(bell, {}, { context, tenantId: "acme", queue: "vm.acme.1.commands" });
    expect([ring.exchange, ring.routingKey, ring.tenantId]).to.deep.equal(["", "vm.acme.1.commands", "acme"]);
    expect(publishOptions(fact)).to.include({
      mandatory: true,
      persistent: true,
      appId: "vm-ops",
      type: event.name,
    });
  });

  it("need no queue only where they are for consumers outside", () => {
    const told = { ...event, external: true };
    const message = prepareEvent(told, { text: "x" }, { context: { correlationId: "c" } });
    expect(publishOptions(message)).to.include({ mandatory: false, persistent: true });
  });

  it("carry the caller's token only to whom is asked, and never in a header", () => {
    const to = { source: "/muster/gateway", exchange: "", routingKey: "auth.requests", timeoutMs: 5_000 };
    const message = prepareRequest(
      ask,
      {},
      { ...to, context: { correlationId: "c", identity: "secret-token" } },
    );
    expect(JSON.parse(message.body)).to.include({ identity: "secret-token", timeoutms: 5_000 });
    expect(JSON.stringify(message.headers)).to.not.include("secret-token");
  });

  it("are refused when the payload is wrong, too large, or cannot be addressed", () => {
    const context = { correlationId: "c" };
    const refused = (work: () => unknown, path: string): void => {
      const fault = faultOf(work);
      expect(fault).to.have.property("code", "CONTRACT_VIOLATION");
      if (path !== "") expect(fault).to.have.nested.property("details[0].path", path);
    };
    // @ts-expect-error the contract wants text
    refused(() => prepareEvent(event, { text: 1 }, { context }), "data.text");
    refused(() => prepareEvent(event, { text: "x".repeat(1_001) }, { context }), "data");
    refused(
      () => prepareEvent(event, { text: "x" }, { context: { correlationId: "no spaces" } }),
      "correlationid",
    );
    refused(() => prepareDoorbell(bell, {}, { context, tenantId: "acme", queue: "q".repeat(256) }), "");
  });

  it("keep id and data when copied for another attempt", () => {
    const original = JSON.parse(
      prepareEvent(event, { text: "x" }, { context: { correlationId: "c" } }).body,
    ) as Envelope;
    const copy = prepareCopy(
      original,
      { attempt: 2 },
      { exchange: "x", routingKey: "q", headers: { why: "because" } },
    );
    expect(JSON.parse(copy.body)).to.deep.equal({ ...original, attempt: 2 });
    expect(copy.headers).to.include({
      why: "because",
      cloudEvents_attempt: "2",
      cloudEvents_id: original.id,
    });
  });
});
