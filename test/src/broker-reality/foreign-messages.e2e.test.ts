import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { agentHello } from "@muster/contracts/agents";
import { cloudEventsContentType } from "@muster/contracts/envelope";
import { uuidv7 } from "@muster/contracts/ids";
import { meshWith } from "@muster/contracts/mesh";
import { retryExchange, topologyOf, vmQueue, type QueueShape } from "@muster/contracts/topology";
import { eventuallyHolds } from "@muster/testing/eventually";
import { ask, ended, shell } from "../following.ts";
import { asAdmin } from "../model/facts.ts";
import { openSystem, type System } from "../system.ts";

interface Foreign {
  readonly properties: Record<string, unknown>;
  readonly payload: string;
}

const event = (more: Record<string, unknown> = {}) =>
  JSON.stringify({
    specversion: "1.0",
    id: uuidv7(),
    source: "/strangers",
    type: agentHello.name,
    time: new Date().toISOString(),
    datacontenttype: "application/json",
    data: { nothing: "of ours" },
    ...more,
  });

/** What may come by mistake or in malice; each kind with an id of its own where it has one. */
const kinds: Readonly<Record<string, (id: string) => Foreign>> = {
  "garbage bytes": (id) => ({ properties: { message_id: id }, payload: "\u0000\u0001\ufffd{{{" }),
  "another content type": (id) => ({
    properties: { message_id: id, content_type: "application/x-protobuf" },
    payload: event(),
  }),
  "JSON of another contract": (id) => ({
    properties: { message_id: id, content_type: cloudEventsContentType },
    payload: event({ id, type: "strangers.thing.happened.v1" }),
  }),
  "huge headers": (id) => ({
    properties: {
      message_id: id,
      headers: Object.fromEntries(Array.from({ length: 200 }, (_, i) => [`h${i}`, "x".repeat(250)])),
    },
    payload: "{}",
  }),
  "no message id": () => ({ properties: {}, payload: "nobody's" }),
  "a deadline that has passed": (id) => ({
    properties: { message_id: id, content_type: cloudEventsContentType },
    payload: event({ id, type: "strangers.late.v1", time: "2001-01-01T00:00:00Z", timeoutms: 1 }),
  }),
  "a forged reply address": (id) => ({
    properties: { message_id: id, reply_to: "amq.rabbitmq.reply-to.forged", content_type: "text/plain" },
    payload: "tell them",
  }),
  "a queue as reply address": (id) => ({
    properties: { message_id: id, reply_to: "vm-ops.requests", content_type: cloudEventsContentType },
    payload: event({ id, type: "strangers.echo.v1" }),
  }),
};

describe("a foreign message", function () {
  this.timeout(120_000);
  let system: System;
  let vm: string;
  let queues: readonly Pick<QueueShape, "name" | "role">[];

  before(async () => {
    system = await openSystem();
    vm = await system.registerVm();
    await system.startAgent({ vmUuids: [vm] });
    const declared = topologyOf(meshWith({ type: "quorum", deliveryLimit: 2, lengthMax: 10_000 })).queues;
    queues = [...declared, { name: vmQueue(system.tenantId, vm), role: "consumed" }];
  });
  after(async () => await system?.close());

  /** Kept messages by the queue in which they died; most belong to no tenant, so the API shows them to none. */
  const kept = (): Promise<Record<string, number>> =>
    asAdmin(system.adminDatabaseUrl, async (admin) => {
      const found = await admin.query<{ queue: string; letters: number }>(
        "SELECT queue, count(*)::int AS letters FROM reliability.dead_letters WHERE kind = 'message' GROUP BY 1",
      );
      return Object.fromEntries(found.map(({ queue, letters }) => [queue, letters]));
    });

  it("of any kind in any declared queue is kept for people, and the consumer goes on", async () => {
    const pids = Object.values(system.services).map(({ pid }) => pid);
    const hit = queues.filter(({ role }) => role !== "retry");
    for (const { name } of hit) {
      for (const make of Object.values(kinds)) {
        expect(await system.vhost.publish({ routingKey: name, ...make(uuidv7()) })).to.equal(true);
      }
    }
    const many = Object.keys(kinds).length;
    const wanted = Object.fromEntries(hit.map(({ name }) => [name, many]));
    await eventuallyHolds(async () => expect(await kept()).to.deep.equal(wanted), 45_000);
    expect(Object.values(system.services).map(({ pid }) => pid)).to.deep.equal(pids);
    for (const service of Object.values(system.services)) await service.ready(5_000);
    const id = await ask(system.client, shell(vm, "true"));
    expect(await ended(system.client, id)).to.include({ state: "succeeded" });
  });

  it("that is put into a retry queue is kept for people, and what waits there for its queue still returns", async () => {
    const pids = Object.values(system.services).map(({ pid }) => pid);
    const before = await kept();
    const retries = queues.filter(({ role }) => role === "retry").map(({ name }) => name);
    const makers = Object.values(kinds);
    for (const name of retries) {
      for (const make of makers) {
        const { properties, payload } = make(uuidv7());
        // sooner than the tier's own time, which may be minutes
        const stray = { routingKey: name, properties: { ...properties, expiration: "1" }, payload };
        expect(await system.vhost.publish(stray)).to.equal(true);
      }
    }
    // RabbitMQ moves 32 dead letters of a queue at a time: as many that go nowhere would stop it
    const shortest = retryExchange("reliability", "1s");
    for (let i = 0; i < 40; i++) {
      for (const way of [{ routingKey: shortest }, { exchange: shortest, routingKey: "no.such" }]) {
        const stray = { properties: { message_id: uuidv7() }, payload: "nobody's", ...way };
        expect(await system.vhost.publish(stray)).to.equal(true);
      }
    }
    const back = { exchange: shortest, routingKey: "reliability.commands", payload: "not ours" };
    expect(await system.vhost.publish(back)).to.equal(true);
    const wanted = { ...before, ...Object.fromEntries(retries.map((name) => [name, makers.length])) };
    wanted[shortest] = makers.length + 80;
    wanted["reliability.commands"] = (before["reliability.commands"] ?? 0) + 1;
    await eventuallyHolds(async () => expect(await kept()).to.deep.equal(wanted), 45_000);
    expect(Object.values(system.services).map(({ pid }) => pid)).to.deep.equal(pids);
    for (const service of Object.values(system.services)) await service.ready(5_000);
    const id = await ask(system.client, shell(vm, "true"));
    expect(await ended(system.client, id)).to.include({ state: "succeeded" });
  });
});
