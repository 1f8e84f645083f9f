import { bodyBytesMax } from "./read-death.ts";
import { isRetryQueue, queueKindOf } from "./queues.ts";

export interface Diagnosed {
  readonly kind: "message" | "command";
  readonly queue: string;
  readonly reason: string;
  readonly type: string;
  readonly last_error: string | null;
  readonly body_cut: boolean;
}

/** What a dead letter means and what to do, in one or two sentences. */
export function diagnosisOf(letter: Diagnosed): string {
  if (letter.kind === "command") return ofCommand(letter.reason);
  const kind = queueKindOf(letter.queue);
  if (kind === "agents") {
    return "No service takes this kind of report: agent and services are of versions that do not fit. Bring both to one version, then replay or discard it.";
  }
  const meaning = kind === "vm" ? ofDoorbell(letter) : ofService(letter);
  const cut = `Only the first ${bodyBytesMax / 1_024 / 1_024} MiB of it were kept, so it cannot be sent again from here; discard it.`;
  return letter.body_cut ? `${meaning} ${cut}` : meaning;
}

function ofCommand(reason: string): string {
  switch (reason) {
    case "dispatch_requeues_exhausted":
      return "An agent was online and claimed none of the attempts. See that the agent works, then replay: the command starts as a new attempt.";
    case "broker_gave_up":
      return "The broker delivered the doorbell as often as the policy allows and nobody kept it. See why the agent's connection breaks, then replay.";
    case "doorbell_unreadable":
      return "The agent could not read the doorbell: agent and vm-ops are of versions that do not fit. Bring both to one version, then replay.";
    case "poison":
      return "The command took its agent down again and again, and what it has done is unknown. Look at the VM before you replay or discard it.";
    default:
      return `vm-ops gave the command up (${reason}). Its history says why; replay it as a new attempt, or discard it.`;
  }
}

function ofDoorbell({ reason, last_error: lastError }: Diagnosed): string {
  if (codeOf(lastError) === "FORBIDDEN") {
    return "Somebody who may not ring put this into the VM's queue, and the agent did not take it. Find out who it was by its last error; discard it.";
  }
  switch (reason) {
    case "rejected":
      return "The agent could not read this doorbell: agent and vm-ops are of versions that do not fit. Bring both to one version, then replay.";
    case "delivery_limit":
      return "The agent's connection broke at each delivery of this doorbell. vm-ops has applied the requeue policy to its command; discard it, or replay it once the connection holds.";
    case "expired":
    case "maxlen":
      return "The VM's queue dropped this doorbell. vm-ops rings again while the command waits; discard it.";
    default:
      return `The broker gave this doorbell up (${reason}). vm-ops decides what becomes of its command; discard it, or replay it.`;
  }
}

function ofService(letter: Diagnosed): string {
  const { queue, reason, type, last_error: lastError } = letter;
  if (isRetryQueue(queue)) {
    return `What waited in ${queue} names no queue to return to: a stranger put it there, or its queue is gone. Apply the topology and replay what is ours; discard the rest.`;
  }
  if (reason === "delivery_limit") {
    return `The consumer of ${queue} died or lost its connection at each delivery of this message. Find why in its log, then replay.`;
  }
  if (reason === "expired" || reason === "maxlen") {
    return `${queue} dropped this message (${reason}). See that its consumer runs, then replay.`;
  }
  if (type === "") return `What came into ${queue} is no message of ours. Find its publisher; discard it.`;
  const code = codeOf(lastError);
  if (code === "CONTRACT_VIOLATION" || code === "UNSUPPORTED_MESSAGE") {
    return `The consumer of ${queue} does not know this form of ${type}: the services are of versions that do not fit. Upgrade the consumer, then replay.`;
  }
  return `The consumer of ${queue} refused this ${type} for good. Remove the cause that its last error names, then replay; or discard it.`;
}

const codeOf = (lastError: string | null): string => lastError?.split(":")[0] ?? "";
