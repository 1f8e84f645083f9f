import type { ActionName } from "@muster/contracts/actions";
import { type agentHello } from "@muster/contracts/agents";
import type { ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { ReportItem } from "@muster/broker/broker";
import type { Database, Tx } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import type { VmOpsMetrics } from "../metrics.ts";
import { bindVms, lockSessions, pendingFor, writeSession } from "./store-hello.ts";
import type { SessionForHello } from "./store-hello.ts";
import { loadPaired, type PairedAgent } from "./pairing.ts";
import { judgeHello } from "./session-policy.ts";
import { agentKeyOf } from "./sessions.ts";

type Item = ReportItem<typeof agentHello>;
type Answer = ReplyInputOf<typeof agentHello> | MusterError;

/** Each session is one more than the last, and the table holds no more than 2^31 - 1: nobody was granted this many. */
const generationMax = 2_000_000_000;

export interface HelloParts {
  readonly database: Pick<Database, "transaction">;
  readonly metrics: Pick<VmOpsMetrics, "quarantines">;
  readonly heartbeatMs: number;
  readonly logger: Logger;
}

/** Opens or renews the sessions of agents, binds their VMs, and rings again what waits for these. */
export async function greet(parts: HelloParts, items: readonly Item[]): Promise<readonly Answer[]> {
  const answers = await parts.database.transaction("system", (tx) => greetAll(tx, parts.heartbeatMs, items));
  answers.forEach((answer, at) => {
    const agent_id = items[at]?.context.agentId;
    if (answer instanceof MusterError && answer.code === "AGENT_QUARANTINED") {
      parts.metrics.quarantines.inc();
      parts.logger.error({ err: answer, agent_id }, "an agent is quarantined");
    }
  });
  return answers;
}

async function greetAll(tx: Tx, heartbeatMs: number, items: readonly Item[]): Promise<Answer[]> {
  const answers: (Answer | undefined)[] = items.map(() => undefined);
  const generations = new Map<number, number>();
  const agents = items.map(({ context }) => context);
  const paired = await loadPaired(tx, agents);
  const known = await lockSessions(tx, agents);
  for (const [at, item] of items.entries()) {
    const key = agentKeyOf(item.context);
    const pairing = paired.get(key);
    const fault = pairingFault(pairing, item.context.epoch);
    if (fault !== undefined) {
      answers[at] = fault;
      continue;
    }
    const outcome = await openSession(tx, item, known.get(key));
    if (outcome instanceof MusterError) answers[at] = outcome;
    else {
      generations.set(at, outcome.generation);
      known.set(key, outcome);
    }
  }
  // An agent that was heard twice in one batch counts as it spoke last.
  const greeted = [
    ...new Map(
      [...generations.keys()].flatMap((at) =>
        items[at] === undefined ? [] : [[agentKeyOf(items[at].context), items[at]] as const],
      ),
    ).values(),
  ];
  const vms = await bindVms(tx, greeted.map((item) => onlyItsOwn(item, paired))); // prettier-ignore
  const pending = await pendingFor(tx, greeted);
  for (const [at, generation] of generations) {
    const item = items[at];
    if (item === undefined) continue;
    const key = agentKeyOf(item.context);
    const asked = new Set(item.payload.vm_uuids);
    const served = vms.filter((vm) => vm.agent === key && asked.has(vm.vm_uuid));
    answers[at] = {
      generation,
      vms: served.map(({ vm_uuid, epoch, concurrency }) => ({ vm_uuid, epoch, concurrency })),
      pending: pending.get(key) ?? [],
      heartbeat_ms: heartbeatMs,
    };
  }
  return answers.map((answer) => answer ?? new MusterError("INTERNAL"));
}

function pairingFault(known: PairedAgent | undefined, epoch: number): MusterError | undefined {
  if (known === undefined || known.epoch < epoch) {
    const text = "this agent is not paired, or its pairing is not known here yet";
    return new MusterError("DEPENDENCY_UNAVAILABLE", text, { retryAfterMs: 1_000 });
  }
  const stands = known.state === "paired" && known.epoch === epoch;
  return stands ? undefined : new MusterError("AGENT_REVOKED");
}

/** What an agent names beyond the VMs that it was paired for is nothing that it serves. */
function onlyItsOwn({ context, payload }: Item, paired: ReadonlyMap<string, PairedAgent>) {
  const own = paired.get(agentKeyOf(context))?.vmUuids;
  return { context, payload: { vm_uuids: payload.vm_uuids.filter((vm) => own?.has(vm) === true) } };
}

async function openSession(
  tx: Tx,
  { payload, context }: Item,
  known: SessionForHello | undefined,
): Promise<SessionForHello | MusterError> {
  if (payload.last_generation > generationMax) {
    const details = [{ path: "last_generation", message: `must be at most ${generationMax}` }];
    return new MusterError("VALIDATION_FAILED", undefined, { details });
  }
  const verdict = judgeHello(known, {
    sessionId: payload.session_id,
    journalId: payload.journal_id,
    journalSeq: payload.journal_seq,
    lastGeneration: payload.last_generation,
  });
  if (verdict.kind === "overtaken") {
    const text = "a later hello of this agent was answered before";
    return new MusterError("DEPENDENCY_UNAVAILABLE", text, { retryAfterMs: 5_000 });
  }
  const generation = verdict.kind === "accepted" ? verdict.generation : (known?.generation ?? 1);
  const quarantineReason = verdict.kind === "quarantine" ? verdict.reason : null;
  const actions = new Set<ActionName>(payload.drivers.flatMap((driver) => driver.actions));
  const written = await writeSession(tx, {
    agent: context,
    hello: payload,
    actions: [...actions],
    generation,
    previousGeneration: known?.generation ?? 0,
    fresh: verdict.kind === "accepted",
    quarantineReason,
  });
  if (quarantineReason !== null) {
    return new MusterError("AGENT_QUARANTINED", `quarantined: ${quarantineReason}`);
  }
  return written;
}
