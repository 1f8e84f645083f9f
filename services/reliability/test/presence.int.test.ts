import { randomUUID } from "node:crypto";
import type { Broker } from "@muster/broker/broker";
import { agentHeartbeat } from "@muster/contracts/agents";
import type { PayloadInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { reliabilityRequests } from "@muster/contracts/reliability";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import {
  asking,
  inSystem,
  metricOf,
  openAgents,
  openPeer,
  setupGround,
  startReliability,
  type Running,
  closeAfterEachTest,
} from "./setup.ts";

closeAfterEachTest();

type Beat = PayloadInputOf<typeof agentHeartbeat>;

const beat = (generation: number, more: Partial<Beat> = {}): Beat => ({
  session: { generation, session_id: randomUUID() },
  version: "1.2.3",
  drivers: ["process"],
  vm_uuids: [randomUUID()],
  running: [],
  load_1m: 0.5,
  clock_unix_ms: Date.now() + 60_000,
  journal: { writable: true, starts: 1, double_starts: 0, unacknowledged_results: 0 },
  stopping: false,
  ...more,
});

async function setup() {
  const ground = await setupGround();
  const service = await startReliability(ground, { MUSTER_RELIABILITY_LOST_AFTER_MS: "60000" });
  const agent = openAgents(ground);
  const gateway = await openPeer(ground, "gateway");
  const events = await eventsOf(await openPeer(ground, "vm-ops"));
  return {
    ground,
    service,
    agent,
    gateway,
    events,
  };
}

/** What vm-ops would hear, in order: the last part of the event's name, and what it says. */
async function eventsOf(broker: Broker): Promise<{ name: string; data: Record<string, unknown> }[]> {
  const seen: { name: string; data: Record<string, unknown> }[] = [];
  await broker.consume("vm-ops.presence", { prefetch: 10 }, (delivery) => {
    const { data } = JSON.parse(delivery.body.toString()) as { data: Record<string, unknown> };
    seen.push({ name: (delivery.type ?? "").replace(/^reliability\.agent\.|\.v1$/g, ""), data });
    delivery.ack();
  });
  return seen;
}

/** Lets an agent, or our own listening, have begun so long ago. */
const age = (service: Running, agentId: string, seconds: number) =>
  inSystem(
    service.database,
    "UPDATE presence SET last_seen_at = last_seen_at - $2 * interval '1 second' WHERE agent_id = $1",
    [agentId, seconds],
  );
const ageListening = (service: Running, seconds: number) =>
  inSystem(
    service.database,
    "UPDATE presence_watch SET attended_since = attended_since - $1 * interval '1 second'",
    [seconds],
  );
const stateOf = async (service: Running, agentId: string) =>
  (
    await inSystem<{ state: string }>(service.database, "SELECT state FROM presence WHERE agent_id = $1", [
      agentId,
    ])
  )[0]?.state;

describe("presence", () => {
  it("goes online, suspect, lost and back, with one event per change", async () => {
    const { ground, service, agent, gateway, events } = await setup();
    const from = { tenantId: "acme", agentId: randomUUID() };
    const send = (payload: Beat) =>
      agent.report(agentHeartbeat, payload, from, { correlationId: randomUUID() });
    expect(await send(beat(1))).to.deep.equal({ next_heartbeat_ms: 15_000 });
    await send(beat(1));
    await eventually(() => events.length === 1);
    await eventually(
      async () => (await inSystem(service.database, "SELECT 1 FROM presence_watch")).length === 1,
    );
    await ageListening(service, 3_600);

    await age(service, from.agentId, 50);
    await eventually(async () => (await stateOf(service, from.agentId)) === "suspect");
    await send(beat(1));
    expect(await stateOf(service, from.agentId)).to.equal("online");
    await age(service, from.agentId, 70);
    await eventually(() => events.length === 2);
    expect(await stateOf(service, from.agentId)).to.equal("lost");
    await eventually(async () => (await metricOf(service.metrics, "muster_agents", { state: "lost" })) === 1);
    await send(beat(2));
    await eventually(() => events.length === 3);
    expect(events.map(({ name }) => name)).to.deep.equal(["recovered", "lost", "recovered"]);
    expect(events[1]?.data).to.include({ agent_id: from.agentId, kind: "lost", generation: 1 });

    const list = await gateway.request(
      reliabilityRequests.listAgents,
      { limit: 10 },
      asking(ground, "acme", "member"),
    );
    expect(list.items).to.have.length(1);
    expect(list.items[0]).to.include({
      agent_id: from.agentId,
      state: "online",
      version: "1.2.3",
      lost_at: null,
    });
    expect(list.items[0]?.clock_skew_ms).to.be.within(50_000, 70_000);
    const others = await gateway.request(
      reliabilityRequests.listAgents,
      { limit: 10 },
      asking(ground, "other"),
    );
    expect(others.items).to.deep.equal([]);
  });

  it("takes a last word as stopped, and heeds neither older sessions nor stragglers", async () => {
    const { service, agent, events } = await setup();
    const from = { tenantId: "acme", agentId: randomUUID() };
    const send = (payload: Beat) =>
      agent.report(agentHeartbeat, payload, from, { correlationId: randomUUID() });
    await send(beat(5));
    const older = await send(beat(4, { stopping: true })).catch((error: unknown) => error);
    expect(older, "an older session learns that it was superseded").to.include({ code: "AGENT_SUPERSEDED" });
    expect(await stateOf(service, from.agentId)).to.equal("online");
    await send(beat(5, { stopping: true }));
    await send(beat(5));
    await send(beat(5, { stopping: true }));
    expect(await stateOf(service, from.agentId)).to.equal("stopped");
    await send(beat(6));
    await eventually(() => events.length === 3);
    expect(events.map(({ name, data }) => data["kind"] ?? name)).to.deep.equal([
      "recovered",
      "stopped",
      "recovered",
    ]);
    expect(await metricOf(service.metrics, "muster_heartbeats_unheeded_total")).to.equal(2);
  });

  it("loses no agent for its clock, however wrong", async () => {
    const { service, agent } = await setup();
    const hourMs = 3_600_000;
    for (const offMs of [-24 * 365 * hourMs, -hourMs, hourMs, 24 * 365 * hourMs]) {
      const from = { tenantId: "acme", agentId: randomUUID() };
      const payload = beat(1, { clock_unix_ms: Date.now() + offMs });
      await agent.report(agentHeartbeat, payload, from, { correlationId: randomUUID() });
      expect(await stateOf(service, from.agentId)).to.equal("online");
      const [{ silent } = { silent: true }] = await inSystem<{ silent: boolean }>(
        service.database,
        "SELECT last_seen_at < clock_timestamp() - interval '1 minute' AS silent FROM presence WHERE agent_id = $1",
        [from.agentId],
      );
      expect(silent).to.equal(false);
    }
  });

  it("judges nobody for its own absence", async () => {
    const { ground, service, agent, events } = await setup();
    const from = { tenantId: "acme", agentId: randomUUID() };
    await agent.report(agentHeartbeat, beat(1), from, { correlationId: randomUUID() });
    await eventually(
      async () => (await inSystem(service.database, "SELECT 1 FROM presence_watch")).length === 1,
    );
    await ageListening(service, 3_600);
    // An hour's outage of everything of ours: nobody listened, nobody was heard.
    await service.close();
    const next = await startReliability(ground, {
      MUSTER_RELIABILITY_LOST_AFTER_MS: "60000",
      MUSTER_RELIABILITY_LEADER_CHECK_MS: "3000",
    });
    await inSystem(next.database, "UPDATE presence_watch SET attended_at = attended_at - interval '1 hour'");
    await age(next, from.agentId, 3_600);
    await eventually(async () => {
      const rows = await inSystem<{ fresh: boolean }>(
        next.database,
        "SELECT attended_since > clock_timestamp() - interval '30 seconds' AS fresh FROM presence_watch",
      );
      return rows[0]?.fresh;
    });
    const other = { tenantId: "acme", agentId: randomUUID() };
    await agent.report(agentHeartbeat, beat(1), other, { correlationId: randomUUID() });
    await eventually(() => events.length === 2);
    await eventually(async () => (await metricOf(next.metrics, "muster_agents", { state: "online" })) === 2);
    expect(await stateOf(next, from.agentId)).to.equal("online");
    // One whole bound later it still is silent.
    await ageListening(next, 61);
    await eventually(async () => (await stateOf(next, from.agentId)) === "lost");
  });

  it("hears two hundred agents at once, each of them once, and tells a large fleet to be slower", async () => {
    const ground = await setupGround();
    await startReliability(ground, { MUSTER_RELIABILITY_HEARTBEATS_PER_SECOND_MAX: "10" });
    const agent = openAgents(ground);
    const events = await eventsOf(await openPeer(ground, "vm-ops"));
    const agents = Array.from({ length: 200 }, () => ({ tenantId: "acme", agentId: randomUUID() }));
    const all = () =>
      Promise.all(agents.map((from) => agent.report(agentHeartbeat, beat(1), from, { correlationId: "c" })));
    await Promise.all([all(), all()]);
    await eventually(() => events.length >= agents.length);
    expect(new Set(events.map(({ data }) => data["agent_id"])).size).to.equal(agents.length);
    expect(events).to.have.length(agents.length);
    await eventually(async () => (await all())[0]?.next_heartbeat_ms === 20_000);
    const stranger = { tenantId: "acme", agentId: "not-a-uuid" };
    const refused = await agent
      .report(agentHeartbeat, beat(1), stranger, { correlationId: "c" })
      .catch((error: unknown) => error);
    expect(refused).to.be.instanceOf(MusterError).and.to.include({ code: "FORBIDDEN" });
  });
});
