import { vmQueue } from "@muster/contracts/topology";
import { randomUUID } from "node:crypto";
import type { Broker, RawDelivery } from "@muster/broker/broker";
import { prepareDoorbell, prepareEvent } from "@muster/broker/prepare";
import { vmCommandDoorbell } from "@muster/contracts/agents";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { agentRecovered, reliabilityRequests } from "@muster/contracts/reliability";
import { eventually } from "@muster/testing/eventually";
import { openFaultyLink } from "@muster/testing/faults";
import { expect } from "chai";
import { recordDeaths } from "../src/dead-letters/record.ts";
import { readDeath } from "../src/dead-letters/read-death.ts";
import {
  asking,
  closeAfterTest,
  inSystem,
  metricOf,
  openPeer,
  setupGround,
  startReliability,
  type Running,
  closeAfterEachTest,
} from "./setup.ts";

closeAfterEachTest();

const tenant = "acme";
const { listDeadLetters, getDeadLetter, replayDeadLetter, replayDeadLetters, discardDeadLetter } =
  reliabilityRequests;

async function setup(more: Record<string, string> = {}) {
  const ground = await setupGround();
  const service = await startReliability(ground, more);
  const gateway = await openPeer(ground, "gateway");
  return {
    ground,
    service,
    gateway,
  };
}

const aDoorbell = (vmUuid: string, id = uuidv7()) =>
  prepareDoorbell(
    vmCommandDoorbell,
    {
      kind: "run",
      command_id: uuidv7(),
      vm_uuid: vmUuid,
      attempt: 1,
      epoch: 1,
      lane: "work",
      action: "exec",
      payload_sha256: "0".repeat(64),
      start_within_ms: 60_000,
      correlation_id: "c-1",
    },
    { id, context: { correlationId: "c-1" }, tenantId: tenant, queue: vmQueue(tenant, vmUuid) },
  );

const anEvent = (id = uuidv7()) =>
  prepareEvent(
    agentRecovered,
    { agent_id: randomUUID(), generation: 1, at: new Date().toISOString() },
    { id, context: { correlationId: "c-1" }, tenantId: tenant },
  );

/** Consumes a queue and rejects the first delivery of each message; answers what came. */
async function rejectFirst(broker: Broker, queue: string) {
  const seen: RawDelivery[] = [];
  const rejected = new Set<string>();
  const consumer = await broker.consume(queue, { prefetch: 10 }, (delivery) => {
    seen.push(delivery);
    const id = delivery.messageId ?? "";
    if (rejected.has(id)) return delivery.ack();
    rejected.add(id);
    delivery.reject(false);
  });
  return { seen, close: () => consumer.close() };
}

const rowsOf = (service: Running) =>
  inSystem<{
    id: string;
    tenant_id: string | null;
    type: string;
    queue: string;
    reason: string;
    state: string;
  }>(service.database, "SELECT id, tenant_id, type, queue, reason, state FROM dead_letters ORDER BY id");

const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "ok",
    (error: unknown) => (error instanceof MusterError ? error.code : String(error)),
  );

describe("dead letters", () => {
  it("keeps what an agent rejects, with its command, its tenant from the queue's name, and tells vm-ops", async () => {
    const { ground, service, gateway } = await setup();
    const peer = await openPeer(ground, "vm-ops");
    const vmUuid = randomUUID();
    const queue = vmQueue(tenant, vmUuid);
    await peer.ensureVmQueue(queue);
    await rejectFirst(peer, queue);
    const told: RawDelivery[] = [];
    await peer.consume("vm-ops.dead-letters", { prefetch: 10 }, (delivery) => {
      told.push(delivery);
      delivery.ack();
    });
    const doorbell = aDoorbell(vmUuid);
    expect((await peer.publish(doorbell)).kind).to.equal("routed");

    const row = await eventually(async () => (await rowsOf(service))[0]);
    expect(row).to.include({ tenant_id: tenant, queue, reason: "rejected", type: vmCommandDoorbell.name });
    const event = await eventually(() => told[0]);
    const { data } = JSON.parse(event.body.toString()) as { data: Record<string, unknown> };
    expect(data).to.deep.include({
      dead_letter_id: row.id,
      queue,
      reason: "rejected",
      dispatch_max_requeues: 2,
    });
    expect(data["command"]).to.deep.include({ vm_uuid: vmUuid, attempt: 1, kind: "run" });

    const detail = await gateway.request(
      getDeadLetter,
      { dead_letter_id: row.id },
      asking(ground, tenant, "member"),
    );
    expect(detail).to.include({ exchange: "", routing_key: queue, message_id: doorbell.id, deaths: 1 });
    expect(detail.body).to.equal(doorbell.body);
    expect(detail.audit.map(({ action }) => action)).to.deep.equal(["recorded"]);
    expect(detail.diagnosis).to.match(/could not read this doorbell/);
  });

  it("makes one row of a dead letter that comes twice, and another of a death after it was sent again", async () => {
    const { ground, service } = await setup();
    const message = anEvent();
    const failed = {
      "x-muster-error-code": "INTERNAL",
      "x-muster-error-message": "no",
      "x-muster-failed-at": "2026-01-01T00:00:00.000Z",
    };
    const dead = (headers: object) =>
      ground.vhost.publish({
        exchange: "muster.dead-letters",
        routingKey: "vm-ops.presence",
        payload: message.body,
        properties: {
          message_id: message.id,
          content_type: "application/cloudevents+json",
          headers: { ...message.headers, ...failed, ...headers },
        },
      });
    for (const headers of [{}, {}, { "muster-replay": "1" }]) expect(await dead(headers)).to.equal(true);
    await eventually(async () => (await rowsOf(service)).length === 2);
    expect(await metricOf(service.metrics, "muster_dead_letters_total", { service: "vm-ops" })).to.equal(2);
    const errors = await inSystem<{ last_error: string }>(
      service.database,
      "SELECT last_error FROM dead_letters",
    );
    expect(errors.map((row) => row.last_error)).to.deep.equal(["INTERNAL: no", "INTERNAL: no"]);
  });

  it("records once what was committed but not acknowledged when the process died", async () => {
    const ground = await setupGround();
    const first = await startReliability(ground);
    const { database } = first;
    await first.broker.close();
    const peer = await openPeer(ground, "gateway");
    const dead = (message: ReturnType<typeof anEvent>) =>
      ground.vhost.publish({
        exchange: "muster.dead-letters",
        routingKey: "vm-ops.presence",
        payload: message.body,
        properties: { message_id: message.id, content_type: "application/cloudevents+json" },
      });
    await dead(anEvent());
    const alarm = { recorded: () => undefined };
    let committed: Promise<void> | undefined;
    await peer.consume("muster.dead-letters.vm-ops", { prefetch: 1, drainTimeoutMs: 10 }, (delivery) => {
      committed ??= recordDeaths({ database, dispatchMaxRequeues: 2, alarm }, [readDeath(delivery)]);
    });
    await eventually(async () => committed !== undefined && (await committed, true));
    await peer.close();
    await first.close();

    const second = await startReliability(ground);
    // Behind the copy in the same queue: once it is there, the copy has been dealt with.
    await dead(anEvent());
    await eventually(async () => (await rowsOf(second)).length >= 2);
    expect(await rowsOf(second)).to.have.length(2);
  });

  it("loses nothing while the database is away", async () => {
    const ground = await setupGround();
    const link = closeAfterTest(await openFaultyLink(ground.env["MUSTER_DATABASE_URL"] ?? ""));
    const service = await startReliability(ground, { MUSTER_DATABASE_URL: link.url });
    link.refuse();
    link.cut();
    const messages = Array.from({ length: 12 }, () => anEvent());
    for (const message of messages) {
      await ground.vhost.publish({
        exchange: "muster.dead-letters",
        routingKey: "vm-ops.presence",
        payload: message.body,
        properties: { message_id: message.id, content_type: "application/cloudevents+json" },
      });
    }
    await eventually(async () => !service.database.health().ok);
    link.heal();
    await eventually(async () => (await rowsOf(service)).length === messages.length, 15_000);
  });

  it("keeps what nobody can read, and what no service takes, by the broker's word and not the sender's", async () => {
    const { ground, service, gateway } = await setup();
    const other = vmQueue("victim", randomUUID());
    await ground.vhost.publish({
      exchange: "muster.dead-letters",
      routingKey: "vm-ops.presence",
      payload: "no\u0000thing",
    });
    await ground.vhost.publish({
      exchange: "muster.agents",
      routingKey: `agents.${tenant}.${randomUUID()}.gossip`,
      payload: "{}",
      properties: {
        headers: {
          "x-death": [{ queue: other, reason: "rejected", count: 1 }],
          cloudEvents_tenantid: "victim",
        },
      },
    });
    const rows = await eventually(async () => {
      const found = await rowsOf(service);
      return found.length === 2 && found;
    });
    expect(rows.find((row) => row.queue === "vm-ops.presence")).to.include({ type: "", tenant_id: null });
    expect(rows.find((row) => row.reason === "unrouted")).to.include({
      queue: "muster.agents.unrouted",
      tenant_id: tenant,
    });
    const list = async (who: string) =>
      (await gateway.request(listDeadLetters, { filter: {}, limit: 10 }, asking(ground, who, "member"))).items
        .length;
    expect([await list(tenant), await list("victim")]).to.deep.equal([1, 0]);
  });

  it("sends a message again to where it was published, with its id, once for twenty operators", async () => {
    const { ground, service, gateway } = await setup();
    const peer = await openPeer(ground, "vm-ops");
    const consumer = await rejectFirst(peer, "vm-ops.presence");
    const message = anEvent();
    await peer.publish(message);
    const row = await eventually(async () => (await rowsOf(service))[0]);
    const operators = Array.from({ length: 20 }, () =>
      codeOf(gateway.request(replayDeadLetter, { dead_letter_id: row.id }, asking(ground, tenant))),
    );
    const outcomes = await Promise.all(operators);
    expect(outcomes.filter((code) => code === "ok")).to.have.length(1);
    expect(new Set(outcomes)).to.deep.equal(new Set(["ok", "NOT_REPLAYABLE"]));

    await eventually(() => consumer.seen.length >= 2);
    const sentinel = anEvent();
    await peer.publish(sentinel);
    await eventually(() => consumer.seen.some(({ messageId }) => messageId === sentinel.id));
    const again = consumer.seen.filter(({ messageId }) => messageId === message.id);
    expect(again).to.have.length(2);
    expect(again[1]).to.include({ exchange: message.exchange, routingKey: message.routingKey });
    expect(again[1]?.body.toString()).to.equal(message.body);
    const detail = await gateway.request(getDeadLetter, { dead_letter_id: row.id }, asking(ground, tenant));
    expect(detail.audit.map(({ action }) => action)).to.deep.equal(["recorded", "replayed"]);
  });

  it("discards with a reason, for admins of its tenant only, once, and says who did it", async () => {
    const { ground, service, gateway } = await setup();
    const peer = await openPeer(ground, "vm-ops");
    await rejectFirst(peer, "vm-ops.presence");
    await peer.publish(anEvent());
    const { id } = await eventually(async () => (await rowsOf(service))[0]);
    const discard = (context: ReturnType<typeof asking>) =>
      gateway.request(discardDeadLetter, { dead_letter_id: id, reason: "a test" }, context);
    expect(await codeOf(discard(asking(ground, tenant, "member")))).to.equal("FORBIDDEN");
    expect(await codeOf(discard(asking(ground, "other")))).to.equal("DEAD_LETTER_NOT_FOUND");
    const foreign = gateway.request(replayDeadLetter, { dead_letter_id: id }, asking(ground, "other"));
    expect(await codeOf(foreign)).to.equal("DEAD_LETTER_NOT_FOUND");
    const done = await discard(asking(ground, tenant, "admin", "user:one"));
    expect(done).to.include({ state: "discarded", settled_by: "user:one", settle_reason: "a test" });
    expect(await codeOf(discard(asking(ground, tenant)))).to.equal("NOT_REPLAYABLE");
    const detail = await gateway.request(getDeadLetter, { dead_letter_id: id }, asking(ground, tenant));
    expect(detail.audit.at(-1)).to.include({ actor: "user:one", action: "discarded", note: "a test" });
    await eventually(
      async () =>
        (await metricOf(service.metrics, "muster_dead_letters_open", { queue_kind: "service" })) === 0,
    );
  });

  it("replays by filter, oldest first, up to the limit, and lists in pages", async () => {
    const { ground, service, gateway } = await setup();
    const peer = await openPeer(ground, "vm-ops");
    const consumer = await rejectFirst(peer, "vm-ops.presence");
    const messages = Array.from({ length: 5 }, () => anEvent());
    for (const message of messages) await peer.publish(message);
    await eventually(async () => (await rowsOf(service)).length === messages.length);
    const me = asking(ground, tenant);
    const all: string[] = [];
    for (let cursor: string | null | undefined; cursor !== null;) {
      const filter = { state: "open" as const };
      const page = await gateway.request(
        listDeadLetters,
        { filter, limit: 2, ...(cursor === undefined ? {} : { cursor }) },
        me,
      );
      all.push(...page.items.map((item) => item.id));
      cursor = page.next_cursor;
    }
    expect(all).to.deep.equal((await rowsOf(service)).map((row) => row.id).reverse());
    expect(
      await codeOf(gateway.request(listDeadLetters, { filter: {}, limit: 2, cursor: "zzz" }, me)),
    ).to.equal("CURSOR_INVALID");
    const filter = { queue: "vm-ops.presence" };
    const some = await gateway.request(replayDeadLetters, { filter, limit: 3 }, me);
    expect(some.replayed.map(({ id }) => id)).to.deep.equal([...all].reverse().slice(0, 3));
    expect(some).to.deep.include({ refused: [], more: true });
    const rest = await gateway.request(replayDeadLetters, { filter, limit: 3 }, me);
    expect([rest.replayed.length, rest.more]).to.deep.equal([2, false]);
    await eventually(() =>
      messages.every(({ id }) => consumer.seen.filter((seen) => seen.messageId === id).length === 2),
    );
  });
});
