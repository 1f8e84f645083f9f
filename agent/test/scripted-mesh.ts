import type { ActionName } from "@muster/contracts/actions";
import {
  reliabilityHeartbeatsQueue,
  reliabilityReports,
  vmCommandDoorbell,
  vmOpsAgentsQueue,
  vmOpsReports,
  type Doorbell,
} from "@muster/contracts/agents";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { meshWith } from "@muster/contracts/mesh";
import { agentLoginName, loginName } from "@muster/contracts/senders";
import { topologyOf, vmQueue } from "@muster/contracts/topology";
import { openBroker } from "@muster/broker/broker";
import { prepareDoorbell } from "@muster/broker/prepare";
import { applyTopology } from "@muster/broker/topology-apply";
import { openFaultyLink } from "@muster/testing/faults";
import { setupVhost } from "@muster/testing/vhost";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";

const tenantId = "test-tenant";
type Claim = PayloadOf<typeof vmOpsReports.claim>["claims"][number];
type ClaimOutcome = ReplyInputOf<typeof vmOpsReports.claim>["outcomes"][number];
type ReportItem = PayloadOf<typeof vmOpsReports.report>["items"][number];
type Result = Extract<ReportItem, { type: "result" }>;
type ReportOutcome = ReplyInputOf<typeof vmOpsReports.report>["items"][number];
type Payload = Record<string, unknown>;

interface Command {
  readonly action: ActionName;
  readonly params: Payload;
  readonly vmUuid: string;
  desired: "run" | "cancel";
}

/** What a test may turn; each answers as a well-behaved owner unless told otherwise. */
export interface Script {
  claim(claim: Claim, usual: () => ClaimOutcome): ClaimOutcome | MusterError;
  result(result: Result): ReportOutcome | MusterError;
  hello(): MusterError | undefined;
  leaseMs: number;
  outputPaused: boolean;
}

/**
 * The other side of the agent protocol over a real broker: just enough of an owner of commands to answer agents by the
 * contracts, and to write down what they did.
 */
export async function setupMesh(o: { vms?: number; concurrency?: number } = {}) {
  const vhost = await setupVhost();
  const vmPolicy = { type: "quorum", deliveryLimit: 2, lengthMax: 1_000 } as const;
  await applyTopology(topologyOf(meshWith(vmPolicy)), vhost);
  const logger = openLogger({ service: "scripted-mesh", level: "silent" });
  const metrics = createMetrics({ service: "scripted-mesh" });
  const broker = await openBroker({
    url: await vhost.urlAs(loginName("vm-ops")),
    name: "scripted-mesh",
    service: "vm-ops",
    logger,
    metrics,
  });
  const reliability = await openBroker({
    url: await vhost.urlAs(loginName("reliability")),
    name: "scripted-reliability",
    service: "reliability",
    logger,
    metrics: createMetrics({ service: "scripted-reliability" }),
  });
  const agentId = uuidv7();
  const link = await openFaultyLink(await vhost.urlAs(agentLoginName(agentId)));
  const vmUuids = Array.from({ length: o.vms ?? 1 }, () => uuidv7());
  await Promise.all(vmUuids.map((vm) => broker.ensureVmQueue(vmQueue(tenantId, vm))));

  const commands = new Map<string, Command>();
  const seen = {
    hellos: [] as PayloadOf<typeof vmOpsReports.hello>[],
    claims: [] as Claim[],
    results: [] as Result[],
    progress: [] as string[],
    heartbeats: [] as PayloadOf<typeof reliabilityReports.heartbeat>[],
    output: new Map<string, Buffer>(),
    outputEnds: new Set<string>(),
  };
  let generation = 0;
  const granted = new Map<string, string>();

  const script: Script = {
    claim: (_claim, usual) => usual(),
    result: ({ command_id, attempt }) => ({ outcome: "stored", command_id, attempt, as: "final" }),
    hello: () => undefined,
    leaseMs: 2_000,
    outputPaused: false,
  };

  const stale = (session: { generation: number }): MusterError | undefined =>
    session.generation === generation ? undefined : new MusterError("AGENT_SUPERSEDED");

  function grant(claim: Claim): ClaimOutcome {
    const { command_id, attempt, nonce } = claim;
    const command = commands.get(command_id);
    if (command === undefined) return { outcome: "denied", command_id, attempt, reason: "expired" };
    if (command.desired === "cancel") return { outcome: "denied", command_id, attempt, reason: "cancelled" };
    const before = granted.get(`${command_id}.${attempt}`);
    if (before !== undefined && before !== nonce) {
      return { outcome: "denied", command_id, attempt, reason: "superseded" };
    }
    granted.set(`${command_id}.${attempt}`, nonce);
    const { action, params } = command;
    const token = `token-${command_id}-${attempt}`;
    return {
      ...{ outcome: "granted", command_id, attempt, token, action, params },
      ...{ lease_ms: script.leaseMs, timeout_ms: 60_000, correlation_id: `c-${command_id}` },
    };
  }

  /** One error refuses the whole message, as an owner's failing transaction would. */
  function each<I, R>(items: readonly I[], answer: (item: I) => R | MusterError): R[] | MusterError {
    const answers = items.map(answer);
    const error = answers.find((one) => one instanceof MusterError);
    return error ?? answers.filter((one): one is R => !(one instanceof MusterError));
  }

  function answerReport(item: ReportItem): ReportOutcome | MusterError {
    const { command_id, attempt } = item;
    if (item.type === "result") {
      const answer = script.result(item);
      if (!(answer instanceof MusterError)) seen.results.push(item);
      return answer;
    }
    seen.progress.push(command_id);
    const desired = commands.get(command_id)?.desired ?? "run";
    const leases = { lease_ms: script.leaseMs, next_renew_ms: Math.ceil(script.leaseMs / 3) };
    return { outcome: "renewed", command_id, attempt, desired, ...leases };
  }

  function takeChunk(chunk: PayloadOf<typeof vmOpsReports.output>["chunks"][number]) {
    const { command_id, attempt, stream, offset, data_base64, last } = chunk;
    const name = `${command_id}.${stream}`;
    const before = seen.output.get(name) ?? Buffer.alloc(0);
    if (offset < before.length)
      return { command_id, attempt, stream, accepted: true, next_offset: before.length };
    const now = Buffer.concat([
      before,
      Buffer.alloc(offset - before.length),
      Buffer.from(data_base64, "base64"),
    ]);
    seen.output.set(name, now);
    if (last) seen.outputEnds.add(name);
    return { command_id, attempt, stream, accepted: true, next_offset: now.length };
  }

  const consumers = await Promise.all([
    broker.serveReports(vmOpsAgentsQueue, vmOpsReports, {
      hello: async (items) =>
        items.map(({ payload }) => {
          seen.hellos.push(payload);
          const refusal = script.hello();
          if (refusal !== undefined) return refusal;
          generation += 1;
          const vms = vmUuids.map((vm_uuid) => ({ vm_uuid, epoch: 1, concurrency: o.concurrency ?? 1 }));
          return { generation, vms, pending: [], heartbeat_ms: 500 };
        }),
      claim: async (items) =>
        items.map(({ payload }) => {
          seen.claims.push(...payload.claims);
          const outcomes = each(payload.claims, (claim) => script.claim(claim, () => grant(claim)));
          return stale(payload.session) ?? (outcomes instanceof MusterError ? outcomes : { outcomes });
        }),
      report: async (items) =>
        items.map(({ payload }) => {
          const refusal = stale(payload.session);
          if (refusal !== undefined) return refusal;
          const answers = each(payload.items, answerReport);
          return answers instanceof MusterError ? answers : { items: answers };
        }),
      output: async (items) =>
        items.map(({ payload }) => {
          const paused = { next_interval_ms: 20, paused: true };
          if (script.outputPaused) {
            const kept = payload.chunks.map(({ command_id, attempt, stream, offset }) => {
              return { command_id, attempt, stream, accepted: true, next_offset: offset };
            });
            return { items: kept, ...paused };
          }
          return { items: payload.chunks.map(takeChunk), next_interval_ms: 0, paused: false };
        }),
    }),
    reliability.serveReports(reliabilityHeartbeatsQueue, reliabilityReports, {
      heartbeat: async (items) =>
        items.map(({ payload }) => {
          seen.heartbeats.push(payload);
          return { next_heartbeat_ms: 500 };
        }),
    }),
  ]);

  async function ring(commandId: string, more: Partial<Doorbell> = {}): Promise<void> {
    const command = commands.get(commandId);
    if (command === undefined) throw new Error("no such command");
    const bell: Doorbell = {
      ...{
        kind: "run",
        command_id: commandId,
        vm_uuid: command.vmUuid,
        attempt: 1,
        epoch: 1,
        action: command.action,
      },
      ...{ lane: command.action === "ping" || command.action === "probe" ? "control" : "work" },
      ...{ payload_sha256: "0".repeat(64), start_within_ms: 60_000, correlation_id: `c-${commandId}` },
      ...more,
    };
    const queue = vmQueue(tenantId, command.vmUuid);
    const context = { correlationId: bell.correlation_id, tenantId };
    await broker.publish(prepareDoorbell(vmCommandDoorbell, bell, { context, tenantId, queue }));
  }

  /** Accepts a command and rings for it; answers its id. */
  async function submit(action: ActionName, params: Payload, vm = 0): Promise<string> {
    const id = uuidv7();
    commands.set(id, { action, params, vmUuid: vmUuids[vm] ?? "", desired: "run" });
    await ring(id);
    return id;
  }

  return {
    ...{ vhost, broker, agentId, link, vmUuids, seen, script, ring, submit, tenantId },
    submitScript: (text: string, vm = 0) => submit("script", { text }, vm),
    resultOf: (id: string): Result | undefined => seen.results.find(({ command_id }) => command_id === id),
    outputOf: (id: string): string => (seen.output.get(`${id}.stdout`) ?? Buffer.alloc(0)).toString("latin1"),
    cancel: async (id: string) => {
      const command = commands.get(id);
      if (command !== undefined) command.desired = "cancel";
      await ring(id, { kind: "cancel" });
    },
    /** Another session of the same agent was accepted elsewhere. */
    supersede: () => {
      generation += 1;
    },
    close: async () => {
      await Promise.all(consumers.map((consumer) => consumer.close()));
      await link.close();
      await broker.close();
      await reliability.close();
      await vhost.destroy();
    },
  };
}

export type ScriptedMesh = Awaited<ReturnType<typeof setupMesh>>;
