import { openBroker, type Broker } from "@muster/broker/broker";
import { prepareDoorbell, prepareEvent, prepareRequest } from "@muster/broker/prepare";
import { urlFor } from "@muster/broker/users";
import { vmCommandDoorbell } from "@muster/contracts/agents";
import { uuidv7 } from "@muster/contracts/ids";
import { mesh } from "@muster/contracts/mesh";
import type { PreparedMessage } from "@muster/contracts/message";
import { agentLost } from "@muster/contracts/reliability";
import type { Login } from "@muster/contracts/senders";
import { agentsExchange, reportRoutingKey, vmQueue } from "@muster/contracts/topology";
import { sweepRules, vmOpsRequests } from "@muster/contracts/vm-ops";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { ask, ended, shell } from "../following.ts";
import { openSystem, type RunningAgent, type System } from "../system.ts";
import { quietLogs } from "./quiet.ts";

describe("a message that is forged", function () {
  this.timeout(120_000);
  let system: System;
  let vm: string;
  let agent: RunningAgent;
  const brokers: Broker[] = [];

  before(async () => {
    system = await openSystem({ env: quietLogs() });
    vm = await system.registerVm();
    agent = await system.startAgent({ vmUuids: [vm] });
  });
  after(async () => {
    for (const broker of brokers) await broker.close();
    await system?.close();
  });

  /** Whoever holds this service's password, with what the broker lets him do. */
  async function thief(login: Login): Promise<Broker> {
    const broker = await openBroker({
      ...{ url: urlFor(system.amqpUrl, system.logins[login]), name: "thief" },
      logger: openLogger({ service: "thief", level: "silent" }),
      metrics: createMetrics({ service: "thief" }),
    });
    brokers.push(broker);
    return broker;
  }

  const counted = async (url: string, kind: string): Promise<number> => {
    const text = await (await fetch(`${url}/metrics`)).text();
    const lines = [...text.matchAll(/^muster_mesh_forged_total\{([^}]*)\} (\S+)$/gm)];
    return lines
      .filter(([, labels = ""]) => labels.includes(`kind="${kind}"`) && labels.includes('"other_sender"'))
      .reduce((sum, [, , value]) => sum + Number(value), 0);
  };
  const put = async (broker: Broker, message: PreparedMessage): Promise<void> => {
    expect((await broker.publish(message)).kind, message.type).to.equal("routed");
  };
  const context = { correlationId: "forged" };
  const sweep = {
    ...{ rules: [sweepRules[0]], limit: 1, dry_run: false },
    ...{ running_max_ms: 60_000, dispatched_max_ms: 60_000, dispatch_max_requeues: 0 },
  };

  it("put by auth or reliability into another's queue, by the permissions that they have, is refused and counted", async () => {
    const [auth, reliability] = [await thief("auth"), await thief("reliability")];
    const vmOps = system.services["vm-ops"].internalUrl;
    const request = prepareRequest(vmOpsRequests.sweepCommands, sweep, {
      ...{ context, source: "/muster/reliability", exchange: "", routingKey: "vm-ops.requests" },
      timeoutMs: 10_000,
    });
    const lost = {
      ...{ agent_id: agent.agentId, generation: 1, kind: "lost" as const },
      ...{ at: new Date().toISOString(), last_seen_at: new Date().toISOString() },
    };
    const event = prepareEvent(agentLost, lost, { context, tenantId: system.tenantId });
    const bell = prepareDoorbell(
      vmCommandDoorbell,
      {
        ...{ kind: "run", command_id: uuidv7(), vm_uuid: vm, attempt: 1, epoch: 1, lane: "work" },
        ...{ action: "exec", payload_sha256: "0".repeat(64), start_within_ms: 60_000, correlation_id: "c" },
      },
      { context, tenantId: system.tenantId, queue: vmQueue(system.tenantId, vm) },
    );
    const { heartbeat } = mesh.reports["reliability.heartbeats"];
    const report = prepareRequest(
      { ...heartbeat, payload: vmOpsRequests.getVm.payload },
      { vm_uuid: vm },
      {
        ...{ context, source: "/muster/agents", exchange: agentsExchange, timeoutMs: 10_000 },
        routingKey: reportRoutingKey(system.tenantId, agent.agentId, heartbeat.report),
      },
    );
    await put(auth, request);
    await put(auth, { ...event, exchange: "", routingKey: "vm-ops.presence" });
    await put(auth, bell);
    await put(reliability, report);
    await eventuallyHolds(async () => {
      expect(await counted(vmOps, "request")).to.equal(1);
      expect(await counted(vmOps, "event")).to.equal(1);
      expect(await counted(agent.process.internalUrl, "doorbell")).to.equal(1);
      expect(await counted(system.services.reliability.internalUrl, "report")).to.equal(1);
    }, 20_000);
  });

  it("that names a real command ends it no sooner: it is kept for people, and the command is carried out", async () => {
    const auth = await thief("auth");
    const waiting = await system.registerVm("waiting");
    const queue = vmQueue(system.tenantId, waiting);
    const id = await ask(system.client, shell(waiting, "true"));
    const bell = prepareDoorbell(
      vmCommandDoorbell,
      {
        ...{ kind: "run", command_id: id, vm_uuid: waiting, attempt: 1, epoch: 1, lane: "work" },
        ...{ action: "exec", payload_sha256: "0".repeat(64), start_within_ms: 60_000, correlation_id: "c" },
      },
      { context, tenantId: system.tenantId, queue },
    );
    for (let n = 0; n < 5; n++) await put(auth, { ...bell, id: uuidv7() });
    await system.startAgent({ vmUuids: [waiting], name: "late" });
    expect(await ended(system.client, id, 30_000)).to.include({ state: "succeeded", attempt: 1 });
    const letters = await eventually(async () => {
      const { data } = await system.client.listDeadLetters({ query: { vm_uuid: waiting } });
      return data.dead_letters.length === 5 && data.dead_letters;
    }, 15_000);
    const one = await system.client.getDeadLetter({ params: { id: letters[0]!.id } });
    expect(one.data.dead_letter).to.include({ reason: "rejected", command_id: null });
    expect(one.data.dead_letter.last_error).to.match(/^FORBIDDEN: rung by muster-auth@/);
  });
});
