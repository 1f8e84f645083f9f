import { openBroker, type Broker } from "@muster/broker/broker";
import {
  commonRequestCodes,
  messageBytesMax,
  type EventContract,
  type ReportContract,
  type RequestContract,
  type Service,
} from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { mesh } from "@muster/contracts/mesh";
import { wireSchemaOf } from "@muster/contracts/schema";
import { requestsQueue, subscriptionQueue } from "@muster/contracts/topology";
import { agentLoginName, loginName } from "@muster/contracts/senders";
import type { Principal } from "@muster/contracts/principal";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { samplesOf } from "@muster/testing/samples";
import { expect } from "chai";
import { pairWithoutKey } from "../agents/pairing.ts";
import fc from "fast-check";
import { after, before, describe, it } from "mocha";
import { z } from "zod";
import { ask, ended, shell } from "../following.ts";
import { asAdmin } from "../model/facts.ts";
import { openMeshCaller, type MeshCaller } from "../mesh-caller.ts";
import { openSystem, type System } from "../system.ts";
import { badEnvelopes, badPayloads } from "./odd-messages.ts";
import { edgesOf, nearMissesOf } from "./odd.ts";
import { quietLogs } from "./quiet.ts";
import { makeThings, type Things } from "./things.ts";

type Asked = RequestContract | ReportContract;

const trialsPerContract = 25;
/** Answers that say that the owner failed, and not what was asked. */
const failures = [
  "INTERNAL",
  "CONTRACT_VIOLATION",
  "DEADLINE_EXCEEDED",
  "DEPENDENCY_UNAVAILABLE",
  "BACKPRESSURE",
  "DRAINING",
];
const requests: Asked[] = Object.values(mesh.requests).flatMap((group) => Object.values(group) as Asked[]);
const reports: Asked[] = Object.values(mesh.reports).flatMap((group) => Object.values(group) as Asked[]);

interface World {
  readonly system: System;
  /** Of who logs in so at the broker, the same each time. */
  readonly peer: (login: string) => Promise<Broker>;
  /** Asks for an owner, as this service. */
  readonly callers: ReadonlyMap<Service, MeshCaller>;
  readonly who: Principal;
  readonly things: Things;
  /** The session of an agent that is known, by which it may report. */
  readonly agentId: string;
  close(): Promise<void>;
  readonly session: { readonly generation: number; readonly session_id: string };
}

async function prepare(): Promise<World> {
  const system = await openSystem({ env: quietLogs() });
  const peers = new Map<string, Promise<Broker>>();
  const open = async (login: string): Promise<Broker> =>
    openBroker({
      ...{ url: await system.vhost.urlAs(login), name: login, metrics: createMetrics({ service: "peer" }) },
      logger: openLogger({ service: "peer", level: "silent" }),
    });
  const peer = (login: string): Promise<Broker> => {
    const opening = peers.get(login) ?? open(login);
    peers.set(login, opening);
    return opening;
  };
  const { tenant_id, subject, roles, permissions } = (await system.client.whoami()).data;
  const callers = new Map<Service, MeshCaller>();
  for (const service of ["gateway", "reliability", "secrets"] as const) {
    callers.set(service, await openMeshCaller(system.vhost, service));
  }
  const things = await makeThings(system.client, system.tenantId, system.vhost, system.adminDatabaseUrl);
  const agentId = uuidv7();
  const [sample] = fc.sample(samplesOf(wireSchemaOf(mesh.reports["vm-ops.agents"].hello.payload)), {
    numRuns: 1,
    seed: 1,
  });
  const hello = {
    ...(sample as object),
    session_id: uuidv7(),
    vm_uuids: [things["vms"] ?? ""],
    last_generation: 0,
  };
  const from = { tenantId: system.tenantId, agentId };
  const contract = mesh.reports["vm-ops.agents"].hello;
  const agent = await peer(agentLoginName(agentId));
  await pairWithoutKey(system.client, { agentId, vmUuids: hello.vm_uuids });
  // vm-ops hears of the pairing a moment after it was made.
  const granted = await eventually(
    () => agent.report(contract, contract.payload.parse(hello), from, { correlationId: "hello" }),
    15_000,
  );
  const session = { generation: granted.generation, session_id: hello.session_id };
  return {
    system,
    peer,
    close: async () => {
      for (const one of peers.values()) await (await one).close();
      for (const one of callers.values()) await one.close();
    },
    callers,
    who: { tenant_id, subject, roles, permissions },
    things,
    agentId,
    session,
  };
}

/** Puts what is there where the contract asks for an id, and the known session. */
function withReal(value: unknown, { things, session }: World): unknown {
  const ids: Record<string, unknown> = {
    vm_uuid: things["vms"],
    command_id: things["commands"],
    dead_letter_id: things["dead-letters"],
    session,
  };
  if (Array.isArray(value))
    return value.map((inner: unknown) => withReal(inner, { things, session } as World));
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).map(([key, inner]) => {
    const known = Object.hasOwn(ids, key) && typeof inner === typeof ids[key] ? ids[key] : undefined;
    return [key, known ?? withReal(inner, { things, session } as World)];
  });
  return Object.fromEntries(entries) as unknown;
}

/** As vm-ops has heard of it from auth. */
async function isPaired({ adminDatabaseUrl, tenantId }: System, agentId: string): Promise<void> {
  await asAdmin(adminDatabaseUrl, (admin) =>
    admin.query(
      `INSERT INTO vm_ops.paired_agents (tenant_id, agent_id, revision, state, epoch, vm_uuids)
       VALUES ($1, $2, 1, 'paired', 1, '{}')`,
      [tenantId, agentId],
    ),
  );
}

/** Sends a payload that nobody has looked at, as a peer with other contracts does. */
async function send(contract: Asked, payload: unknown, world: World): Promise<unknown> {
  const { peer, callers, who, system, agentId } = world;
  const anything = { payload: z.unknown(), payloadBytesMax: messageBytesMax };
  if (contract.kind === "request") {
    const service = contract.callers[0] ?? "gateway";
    const asked = { ...contract, ...anything };
    if (contract.identity === "caller") return await callers.get(service)!.ask(asked, payload, who);
    const asker = await peer(loginName(service));
    return await asker.request(asked, payload, { correlationId: uuidv7() });
  }
  // What an agent says of its own session changes it: each hello is another agent's.
  const from = { tenantId: system.tenantId, agentId: contract.report === "hello" ? uuidv7() : agentId };
  if (from.agentId !== agentId) await isPaired(system, from.agentId);
  const agent = await peer(agentLoginName(from.agentId));
  return await agent.report({ ...contract, ...anything }, payload, from, { correlationId: uuidv7() });
}

async function expectOrderly(contract: Asked, payload: unknown, world: World): Promise<void> {
  const error = await send(contract, payload, world).then(
    () => undefined,
    (thrown: unknown) => (thrown instanceof Error ? thrown : new Error(String(thrown))),
  );
  const parsed = contract.payload.safeParse(payload);
  if (error === undefined) {
    expect(parsed.error?.issues ?? [], "an invalid payload was taken").to.deep.equal([]);
    return;
  }
  if (!(error instanceof MusterError)) throw error;
  // An agent whose session nobody knows is to say hello again, and may then send the same.
  if (contract.kind === "report" && parsed.success && /say hello again/.test(error.message)) return;
  const codes: readonly string[] = [...contract.codes, ...commonRequestCodes];
  expect(
    codes.filter((code) => !failures.includes(code)),
    error.message,
  ).to.include(error.code);
  if (!parsed.success) expect(error.code).to.equal("VALIDATION_FAILED");
  if (error.code !== "VALIDATION_FAILED") return;
  expect(error.details).to.have.length.greaterThan(0);
  for (const { path, message } of error.details) {
    expect(path).to.not.equal("");
    expect(message).to.not.equal("");
  }
}

describe("whatever a message says", function () {
  this.timeout(120_000);
  let world: World;
  let pids: unknown;
  const pidsNow = () => Object.values(world.system.services).map(({ pid }) => pid);

  before(async () => {
    world = await prepare();
    pids = pidsNow();
  });
  after(async () => {
    await world?.close();
    await world?.system.close();
  });

  for (const contract of [...requests, ...reports]) {
    it(`${contract.name}: is answered by its contract, or refused with a code and a path`, async () => {
      const schema = wireSchemaOf(contract.payload);
      const payloads = fc.oneof(edgesOf(schema), nearMissesOf(schema));
      await fc.assert(
        fc.asyncProperty(payloads, fc.boolean(), async (payload, real) => {
          await expectOrderly(contract, real ? withReal(payload, world) : payload, world);
        }),
        { numRuns: trialsPerContract },
      );
      const filler = "x".repeat(Math.min(contract.payloadBytesMax + 70_000, messageBytesMax - 1_000));
      await expectOrderly(contract, { filler }, world);
    });
  }

  /** One of a service's requests that asks for something: whatever is sent as its payload otherwise is a fault. */
  const demanding = (group: object): RequestContract =>
    Object.values<RequestContract>({ ...group }).find(({ payload }) => !payload.safeParse({}).success)!;

  /** Every queue that a service reads messages of ours from, with the type of one and who may send it. */
  const queues = [
    ...Object.entries(mesh.requests).map(([owner, group]) => ({
      queue: requestsQueue(owner as keyof typeof mesh.requests),
      types: [demanding(group).name],
      sender: loginName(demanding(group).callers[0] ?? "gateway"),
    })),
    ...Object.entries(mesh.reports).map(([queue, group]) => ({
      queue,
      types: [Object.values(group)[0]!.name],
      sender: agentLoginName(uuidv7()),
    })),
    ...mesh.subscriptions.map((subscription) => ({
      queue: subscriptionQueue(subscription),
      types: Object.values<EventContract>(subscription.events).map(({ name }) => name),
      sender: loginName("reliability"),
    })),
  ];

  it("is kept for people where nobody can be told, in every queue, and whoever reads it goes on", async () => {
    const { system } = world;
    const kept = (): Promise<Record<string, number>> =>
      asAdmin(system.adminDatabaseUrl, async (admin) => {
        const found = await admin.query<{ queue: string; letters: number }>(
          "SELECT queue, count(*)::int AS letters FROM reliability.dead_letters WHERE queue NOT LIKE 'vm.%' GROUP BY 1",
        );
        return Object.fromEntries(found.map(({ queue, letters }) => [queue, letters] as const));
      });
    const wanted: Record<string, number> = { ...(await kept()) };
    for (const { queue, types, sender } of queues) {
      const odd = [...badEnvelopes(types[0] ?? ""), ...types.flatMap((type) => badPayloads(type))];
      wanted[queue] = (wanted[queue] ?? 0) + odd.length;
      for (let from = 0; from < odd.length; from += 8) {
        const some = odd.slice(from, from + 8);
        const routed = await Promise.all(
          some.map((one) => system.vhost.publish({ as: sender, routingKey: queue, ...one })),
        );
        expect(routed).to.not.include(false);
      }
    }
    await eventuallyHolds(async () => expect(await kept()).to.deep.equal(wanted), 60_000);
  });

  it("does not stop who answers, by an address to answer to that is nobody's", async () => {
    const { system } = world;
    const forged = [
      "forged",
      "",
      "g2dkAA",
      `${Buffer.from("nobody@nowhere").toString("base64")}.x`,
      "é",
      "x".repeat(200),
    ];
    for (const { queue, types, sender } of queues.filter(({ queue: name }) => name.endsWith(".requests"))) {
      for (const end of forged) {
        const [bad] = badPayloads(types[0] ?? "");
        const properties = {
          ...bad!.properties,
          message_id: uuidv7(),
          reply_to: `amq.rabbitmq.reply-to.${end}`,
        };
        await system.vhost.publish({ as: sender, routingKey: queue, properties, payload: bad!.payload });
      }
    }
    for (const contract of requests) {
      const [sample] = fc.sample(samplesOf(wireSchemaOf(contract.payload)), { numRuns: 1, seed: 2 });
      await expectOrderly(contract, sample, world);
    }
  });

  it("ended no process, and what is good is carried out", async () => {
    const { system } = world;
    expect(pidsNow()).to.deep.equal(pids);
    for (const service of Object.values(system.services)) await service.ready(10_000);
    const vm = await system.registerVm();
    await system.startAgent({ vmUuids: [vm] });
    expect(await ended(system.client, await ask(system.client, shell(vm, "true")))).to.include({
      state: "succeeded",
    });
  });
});
