import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { commandAccepted } from "@muster/contracts/vm-ops";
import type { vmOpsRequests } from "@muster/contracts/vm-ops";
import { prepareEvent } from "@muster/broker/prepare";
import type { RequestContext } from "@muster/broker/broker";
import type { WorkContext } from "@muster/contracts/envelope";
import type { Database, Tx } from "@muster/database/database";
import { callerOf } from "../caller.ts";
import type { VmOpsMetrics } from "../metrics.ts";
import { decide } from "./machine.ts";
import type { Transition } from "./machine.ts";
import { doorbell } from "./messages.ts";
import { findByKeys, insertCommands, lockTargets } from "./store-accept.ts";
import type { AcceptedRow, NewCommand, TargetVm } from "./store-accept.ts";
import { refuseOther, validateCommand } from "./validate.ts";
import type { Remembered, Wanted } from "./validate.ts";

type Contract = typeof vmOpsRequests.acceptCommand;
export type AcceptItem = { readonly payload: PayloadOf<Contract>; readonly context: RequestContext };
export type AcceptAnswer = ReplyInputOf<Contract> | MusterError;

export interface AcceptParts {
  readonly database: Pick<Database, "transaction">;
  readonly metrics: Pick<VmOpsMetrics, "accepted">;
  /** Commands that may wait for one VM. */
  readonly waitingMax: number;
  /** Why nothing is accepted for the moment; undefined when it is. */
  readonly pressure: () => { readonly retryAfterMs: number } | undefined;
}

/** A request that may be accepted, whoever brought it. */
export interface Asking {
  readonly tenantId: string;
  readonly requestedBy: string;
  readonly key: string | undefined;
  readonly wanted: Wanted;
  readonly context: WorkContext;
}

interface Candidate extends Asking {
  readonly at: number;
}

export const acceptCommands = (
  parts: AcceptParts,
  items: readonly AcceptItem[],
): Promise<readonly AcceptAnswer[]> => acceptEach(parts, items, askingOf);

/**
 * Accepts many commands in one transaction, each as if alone: written with its doorbell and its event, or refused; also
 * where `askingOf` throws MusterError.
 */
export async function acceptEach<I>(
  parts: AcceptParts,
  items: readonly I[],
  askingOf: (item: I) => Asking,
): Promise<readonly AcceptAnswer[]> {
  const pressure = parts.pressure();
  if (pressure !== undefined) return items.map(() => new MusterError("BACKPRESSURE", undefined, pressure));
  const judged = items.map((item, at) => judge(() => askingOf(item), at));
  const candidates = judged.filter((one): one is Candidate => !(one instanceof MusterError));
  const accepted = candidates.length === 0 ? undefined : await acceptAll(parts, candidates);
  return judged.map((one, at) => {
    const answer = one instanceof MusterError ? one : (accepted?.get(at) ?? new MusterError("INTERNAL"));
    parts.metrics.accepted.inc({ outcome: outcomeOf(answer) });
    return answer;
  });
}

/**
 * As long as few wait for a VM, any number of transactions accept for it at once: none sees the rows of the others, so
 * each takes a small part of the room only. Beyond that one after another has the VM for itself, and counts exactly.
 */
const sharersMax = 16;

/** More wait for a VM than those that share it may assume. */
class Crowded extends Error {
  override readonly name = "Crowded";
}

async function acceptAll(
  { database, waitingMax }: AcceptParts,
  candidates: readonly Candidate[],
): Promise<Map<number, AcceptAnswer>> {
  const tenants = [...new Set(candidates.map((candidate) => candidate.tenantId))];
  const within = (room: Room): Promise<Map<number, AcceptAnswer>> =>
    database.transaction({ tenants }, async (tx) => {
      const answers = new Map<number, AcceptAnswer>();
      for (let left = candidates; left.length > 0; left = left.filter(({ at }) => !answers.has(at))) {
        await acceptPass(tx, room, left, answers);
      }
      return answers;
    });
  try {
    return await within({ lock: "shared", waitingMax: Math.floor(waitingMax / sharersMax) });
  } catch (error) {
    if (!(error instanceof Crowded)) throw error;
    return await within({ lock: "exclusive", waitingMax });
  }
}

function outcomeOf(answer: AcceptAnswer): string {
  if (answer instanceof MusterError) return answer.code;
  return answer.replayed ? "replayed" : "accepted";
}

function askingOf({ payload, context }: AcceptItem): Asking {
  const { tenant_id: tenantId, subject } = callerOf(context, "member");
  const wanted = validateCommand(payload.command);
  return { tenantId, requestedBy: subject, key: payload.idempotency_key, wanted, context };
}

function judge(asking: () => Asking, at: number): Candidate | MusterError {
  try {
    return { at, ...asking() };
  } catch (error) {
    if (error instanceof MusterError) return error;
    throw error;
  }
}

interface Room {
  readonly lock: "shared" | "exclusive";
  readonly waitingMax: number;
}

/** Answers at least the first of each key among those that are left. Throws Crowded when it must be done exclusively. */
async function acceptPass(
  tx: Tx,
  { lock, waitingMax }: Room,
  left: readonly Candidate[],
  answers: Map<number, AcceptAnswer>,
): Promise<void> {
  await answerKnown(tx, left, answers);
  const firsts = firstOfEachKey(left.filter(({ at }) => !answers.has(at)));
  if (firsts.length === 0) return;
  const targets = await lockTargets(tx, distinctVms(firsts), lock);
  const vms = new Map(targets.map((vm) => [`${vm.tenant_id}/${vm.vm_uuid}`, vm]));
  const fit: { candidate: Candidate; vm: TargetVm; command: NewCommand }[] = [];
  for (const candidate of firsts) {
    const vm = vms.get(`${candidate.tenantId}/${candidate.wanted.vmUuid}`);
    const refusal = refusalOf(vm, candidate);
    if (refusal !== undefined) answers.set(candidate.at, refusal);
    else if (vm !== undefined) fit.push({ candidate, vm, command: newCommand(candidate) });
  }
  if (fit.length === 0) return;
  const inserted = await insertCommands(tx, fit.map((one) => one.command), waitingMax); // prettier-ignore
  const missed: Candidate[] = [];
  for (const { candidate, vm, command } of fit) {
    const acceptedAt = inserted.get(command.id);
    if (acceptedAt === undefined) missed.push(candidate);
    else {
      tell(tx, command, vm, acceptedAt);
      answers.set(candidate.at, { command: answerOf(rowOf(command, acceptedAt)), replayed: false });
    }
  }
  // Another transaction was quicker with the same key; else there was no room.
  await answerKnown(tx, missed, answers);
  const full = missed.filter(({ at }) => !answers.has(at));
  if (full.length > 0 && lock === "shared") throw new Crowded("a VM has many that wait");
  for (const { at } of full) {
    answers.set(at, new MusterError("VM_QUEUE_FULL", undefined, { retryAfterMs: 5_000 }));
  }
}

async function answerKnown(
  tx: Tx,
  candidates: readonly Candidate[],
  answers: Map<number, AcceptAnswer>,
): Promise<void> {
  const keyed = candidates.flatMap(({ tenantId, key }) => (key === undefined ? [] : [{ tenantId, key }]));
  const rows = await findByKeys(tx, keyed);
  const byKey = new Map(rows.map((row) => [`${row.tenant_id}/${row.idempotency_key}`, row]));
  for (const { at, tenantId, key, wanted } of candidates) {
    const row = key === undefined ? undefined : byKey.get(`${tenantId}/${key}`);
    if (row === undefined) continue;
    try {
      refuseOther(rememberedOf(row), wanted);
      answers.set(at, { command: answerOf(row), replayed: true });
    } catch (error) {
      if (!(error instanceof MusterError)) throw error;
      answers.set(at, error);
    }
  }
}

function firstOfEachKey(candidates: readonly Candidate[]): Candidate[] {
  const seen = new Set<string>();
  return candidates.filter(({ tenantId, key }) => {
    if (key === undefined) return true;
    const whole = `${tenantId}/${key}`;
    if (seen.has(whole)) return false;
    seen.add(whole);
    return true;
  });
}

function distinctVms(candidates: readonly Candidate[]): { tenantId: string; vmUuid: string }[] {
  const vms = new Map(
    candidates.map(({ tenantId, wanted: { vmUuid } }) => [`${tenantId}/${vmUuid}`, { tenantId, vmUuid }]),
  );
  return [...vms.values()];
}

function refusalOf(vm: TargetVm | undefined, { wanted }: Candidate): MusterError | undefined {
  if (vm === undefined) return new MusterError("VM_NOT_FOUND");
  if (vm.state === "retired") return new MusterError("VM_RETIRED");
  if (vm.actions !== null && !vm.actions.includes(wanted.action)) {
    const message = `no driver of this VM's agent has ${wanted.action}; it has ${vm.actions.join(", ") || "none"}`;
    return new MusterError("ACTION_NOT_SUPPORTED", undefined, { details: [{ path: "action", message }] });
  }
  return undefined;
}

const born: Transition = (() => {
  const decision = decide(
    {
      ...{ state: "requested", attempt: 1, requeues: 0, desired: "run", reason: "accepted" },
      ...{ effect: "none", effectCarried: "none", late: false, resultStored: false },
    },
    { event: "accepted" },
  );
  if (decision.kind === "refused") throw new Error("the machine refuses to accept a new command");
  return decision.life;
})();

function newCommand({ tenantId, requestedBy, key, wanted, context }: Candidate): NewCommand {
  const { state, reason, effect } = born;
  return { tenantId, id: uuidv7(), key, wanted, requestedBy, context, state, reason, effect };
}

function tell(tx: Tx, command: NewCommand, vm: TargetVm, acceptedAt: Date): void {
  const { wanted, tenantId, id, context } = command;
  tx.publish(
    doorbell(
      {
        ...{ tenantId, commandId: id, vmUuid: wanted.vmUuid, attempt: 1, epoch: vm.epoch },
        ...{ lane: wanted.lane, action: wanted.action, payloadSha256: wanted.payloadSha256 },
        ...{ startWithinMs: wanted.expiresInMs, context },
      },
      "run",
    ),
    prepareEvent(
      commandAccepted,
      {
        ...{ command_id: id, vm_uuid: wanted.vmUuid, action: wanted.action, attempt: 1 },
        at: acceptedAt.toISOString(),
        payload_sha256: wanted.payloadSha256,
        environment: wanted.environment,
        project_id: wanted.projectId,
        requested_by: command.requestedBy,
        expires_at: new Date(acceptedAt.getTime() + wanted.expiresInMs).toISOString(),
      },
      { context, tenantId, orderingKey: id, subject: id },
    ),
  );
}

function rowOf(command: NewCommand, acceptedAt: Date): Omit<AcceptedRow, "idempotency_key" | "tenant_id"> {
  const { wanted, id, requestedBy, context } = command;
  return {
    id,
    vm_uuid: wanted.vmUuid,
    action: wanted.action,
    params: wanted.params,
    payload_sha256: wanted.payloadSha256,
    timeout_ms: wanted.timeoutMs,
    expires_in_ms: wanted.expiresInMs,
    timeout_asked_ms: wanted.timeoutAskedMs,
    expires_in_asked_ms: wanted.expiresInAskedMs,
    environment: wanted.environment,
    project_id: wanted.projectId,
    requested_by: requestedBy,
    correlation_id: context.correlationId,
    accepted_at: acceptedAt,
  };
}

/** The first answer, made of what never changes: the same for ever. */
function answerOf(row: Omit<AcceptedRow, "idempotency_key" | "tenant_id">) {
  return {
    id: row.id,
    vm_uuid: row.vm_uuid,
    action: row.action,
    state: born.state,
    environment: row.environment,
    project_id: row.project_id,
    requested_by: row.requested_by,
    correlation_id: row.correlation_id,
    timeout_seconds: row.timeout_ms / 1_000,
    accepted_at: row.accepted_at.toISOString(),
    expires_at: new Date(row.accepted_at.getTime() + row.expires_in_ms).toISOString(),
  };
}

function rememberedOf(row: AcceptedRow): Remembered {
  return {
    vmUuid: row.vm_uuid,
    action: row.action,
    params: row.params,
    payloadSha256: row.payload_sha256,
    timeoutAskedMs: row.timeout_asked_ms,
    expiresInAskedMs: row.expires_in_asked_ms,
    environment: row.environment,
    projectId: row.project_id,
  };
}
