import { expect } from "chai";
import fc from "fast-check";
import { retriesUnrouted } from "@muster/contracts/topology";
import { messageAgain } from "./again.ts";
import { diagnosisOf } from "./diagnosis.ts";
import { bodyBytesMax, readDeath, replayHeader, type DeadDelivery } from "./read-death.ts";

const vmUuid = "11111111-1111-4111-8111-111111111111";
const queue = `vm.acme.${vmUuid}.commands`;

const envelope = (more: object = {}) => ({
  specversion: "1.0",
  id: "m-1",
  source: "/muster/vm-ops",
  type: "vm-ops.vm.doorbell.v1",
  time: "2026-01-01T00:00:00.000Z",
  datacontenttype: "application/json",
  tenantid: "liar",
  correlationid: "c-1",
  data: { kind: "run", command_id: vmUuid, vm_uuid: vmUuid, attempt: 2 },
  ...more,
});

const delivery = (more: Partial<DeadDelivery> = {}): DeadDelivery => ({
  queue: "muster.dead-letters.vm",
  exchange: "muster.dead-letters",
  routingKey: queue,
  body: Buffer.from(JSON.stringify(envelope())),
  headers: {
    "x-death": [
      {
        queue,
        reason: "delivery_limit",
        count: 1,
        exchange: "",
        "routing-keys": [queue],
        time: { "!": "timestamp", value: 1_700_000_000 },
      },
    ],
  },
  contentType: "application/cloudevents+json; charset=utf-8",
  messageId: "m-1",
  type: undefined,
  userId: "muster-vm-ops",
  ...more,
});

const rowOf = (death: ReturnType<typeof readDeath>, more: object = {}) => ({
  queue: death.queue,
  exchange: death.exchange,
  routing_key: death.routingKey,
  content_type: death.contentType,
  headers: death.headers,
  body: death.body,
  body_bytes: death.bodyBytes,
  replays: 0,
  tenant_id: death.tenantId,
  message_id: death.messageId,
  ...more,
});

describe("reading a dead letter", () => {
  it("tells where it died, why, of what command, and whose it is by the queue's name", () => {
    expect(readDeath(delivery())).to.deep.include({
      queue,
      reason: "delivery_limit",
      exchange: "",
      routingKey: queue,
      type: "vm-ops.vm.doorbell.v1",
      tenantId: "acme",
      vmUuid,
      command: { command_id: vmUuid, vm_uuid: vmUuid, attempt: 2, kind: "run" },
      diedAtMs: 1_700_000_000_000,
      deaths: 1,
    });
  });

  it("reads the copy that a consumer makes: its queue, its error, when", () => {
    const headers = {
      "x-muster-error-code": "VM_NOT_FOUND",
      "x-muster-error-message": "gone",
      "x-muster-failed-at": "2026-01-02T00:00:00.000Z",
    };
    const death = readDeath(delivery({ routingKey: "vm-ops.presence", headers }));
    expect(death).to.deep.include({
      queue: "vm-ops.presence",
      exchange: "",
      routingKey: "vm-ops.presence",
      reason: "rejected",
      tenantId: "liar",
      lastError: "VM_NOT_FOUND: gone",
      diedAtMs: Date.parse("2026-01-02T00:00:00.000Z"),
    });
  });

  it("takes no agent's word for a tenant", () => {
    const died = { queue: "vm-ops.agents", reason: "rejected", count: 1 };
    const reported = (exchange: string, key: string) =>
      readDeath(delivery({ headers: { "x-death": [{ ...died, exchange, "routing-keys": [key] }] } }))
        .tenantId;
    expect(reported("muster.agents", `agents.acme.${vmUuid}.hello`)).to.equal("acme");
    expect(reported("", "vm-ops.agents")).to.equal(null);
  });

  it("knows copies of one death by their key, and tells two deaths apart", () => {
    const key = (more: Partial<DeadDelivery>) => readDeath(delivery(more)).key;
    const again = { ...delivery().headers, [replayHeader]: "1" };
    expect(key({})).to.equal(key({}));
    expect(new Set([key({}), key({ messageId: "m-2" }), key({ headers: again })]).size).to.equal(3);
  });

  it("tells of what was put into a retry queue that it has no queue to return to", () => {
    const waited = { queue: "reliability.retry.1s", reason: "expired", count: 1, exchange: "" };
    const death = readDeath(
      delivery({
        queue: retriesUnrouted,
        headers: { "x-death": [{ ...waited, "routing-keys": ["reliability.retry.1s"] }] },
      }),
    );
    expect(death).to.include({ queue: "reliability.retry.1s", reason: "expired" });
    const letter = { ...death, kind: "message", last_error: null, body_cut: false } as const;
    expect(diagnosisOf(letter)).to.match(/names no queue to return to: a stranger put it there/);
  });

  it("never throws, and makes only what PostgreSQL stores", () => {
    const wild = fc.record({
      queue: fc.string(),
      exchange: fc.string(),
      routingKey: fc.string(),
      body: fc.uint8Array().map((bytes) => Buffer.from(bytes)),
      headers: fc.dictionary(fc.string({ unit: "binary" }), fc.anything(), { noNullPrototype: true }),
      contentType: fc.option(fc.string(), { nil: undefined }),
      messageId: fc.option(fc.string({ unit: "binary" }), { nil: undefined }),
      type: fc.option(fc.string({ unit: "binary" }), { nil: undefined }),
      userId: fc.option(fc.string({ unit: "binary" }), { nil: undefined }),
    });
    fc.assert(
      fc.property(wild, (given) => {
        const { body: _, ...death } = readDeath(given);
        expect(JSON.stringify(death)).not.to.match(/\\u0000|\\ud[89a-f][0-9a-f]{2}/);
        expect(diagnosisOf({ ...death, kind: "message", last_error: null, body_cut: false })).to.match(/\.$/);
      }),
    );
  });
});

describe("sending a dead letter again", () => {
  it("keeps id, body and routing, and counts the replay", () => {
    const death = readDeath(delivery());
    const message = messageAgain(rowOf(death, { replays: 1 }));
    expect(message).to.include({ id: "m-1", exchange: "", routingKey: queue, tenantId: "acme" });
    expect(message.body).to.equal(death.body.toString());
    expect(message.headers).to.include({ [replayHeader]: "2", cloudEvents_id: "m-1" });
    expect(message.headers).not.to.have.any.keys("x-death");
  });

  it("lets its attempts start anew", () => {
    const body = Buffer.from(JSON.stringify(envelope({ attempt: 5 })));
    const again = JSON.parse(messageAgain(rowOf(readDeath(delivery({ body })))).body) as object;
    expect(again).to.deep.equal({ ...envelope(), attempt: 1 });
  });

  it("refuses what was cut, and what nobody can read", () => {
    const big = Buffer.alloc(bodyBytesMax + 1, "x");
    for (const body of [big, Buffer.from("garbage")]) {
      const row = rowOf(readDeath(delivery({ body })));
      expect(() => messageAgain(row))
        .to.throw()
        .with.property("code", "NOT_REPLAYABLE");
    }
  });
});
