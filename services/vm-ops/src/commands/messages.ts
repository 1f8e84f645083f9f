import { vmQueue } from "@muster/contracts/topology";
import { vmCommandDoorbell } from "@muster/contracts/agents";
import type { ActionName, Lane } from "@muster/contracts/actions";
import type { CommandResult } from "@muster/contracts/commands";
import { isTerminal } from "@muster/contracts/commands";
import type { WorkContext } from "@muster/contracts/envelope";
import { uuidv7 } from "@muster/contracts/ids";
import type { PreparedMessage } from "@muster/contracts/message";
import {
  commandDeadLettered,
  commandFinished,
  commandReplayed,
  commandStarted,
} from "@muster/contracts/vm-ops";
import { prepareDoorbell, prepareEvent } from "@muster/broker/prepare";
import type { Transition } from "./machine.ts";
import { contextOf } from "./row.ts";
import type { CommandRow } from "./row.ts";

export interface Ringing {
  readonly tenantId: string;
  readonly commandId: string;
  readonly vmUuid: string;
  readonly attempt: number;
  readonly epoch: number;
  readonly lane: Lane;
  readonly action: ActionName;
  readonly payloadSha256: string;
  readonly startWithinMs: number;
  readonly context: WorkContext;
}

/** A run doorbell's message id names its command and attempt: the confirm finds them there. */
const runId = (commandId: string, attempt: number): string => `${commandId}.${attempt}.run`;
const runIdShape = /^([0-9a-f-]{36})\.([0-9]{1,7})\.run$/;

/** Which command and attempt this doorbell rings for; undefined for anything but a run doorbell. */
export function rungBy(message: PreparedMessage): { commandId: string; attempt: number } | undefined {
  if (message.type !== vmCommandDoorbell.name) return undefined;
  const [, commandId, attempt] = runIdShape.exec(message.id) ?? [];
  return commandId === undefined ? undefined : { commandId, attempt: Number(attempt) };
}

export function doorbellPayloadOf(ringing: Ringing, kind: "run" | "cancel") {
  return {
    kind,
    command_id: ringing.commandId,
    vm_uuid: ringing.vmUuid,
    attempt: ringing.attempt,
    epoch: ringing.epoch,
    lane: ringing.lane,
    action: ringing.action,
    payload_sha256: ringing.payloadSha256,
    start_within_ms: Math.max(0, Math.ceil(ringing.startWithinMs)),
    correlation_id: ringing.context.correlationId,
  };
}

export function doorbell(ringing: Ringing, kind: "run" | "cancel"): PreparedMessage {
  return prepareDoorbell(vmCommandDoorbell, doorbellPayloadOf(ringing, kind), {
    id:
      kind === "run"
        ? runId(ringing.commandId, ringing.attempt)
        : `${ringing.commandId}.${ringing.attempt}.cancel`,
    context: ringing.context,
    tenantId: ringing.tenantId,
    queue: vmQueue(ringing.tenantId, ringing.vmUuid),
  });
}

/**
 * Rings once more for a doorbell that the broker had and lost. Its id is new: the row of the one before may still be
 * in the outbox, and there is nothing to confirm.
 */
export function doorbellAgain(ringing: Ringing): PreparedMessage {
  return prepareDoorbell(vmCommandDoorbell, doorbellPayloadOf(ringing, "run"), {
    id: uuidv7(),
    context: ringing.context,
    tenantId: ringing.tenantId,
    queue: vmQueue(ringing.tenantId, ringing.vmUuid),
  });
}

/** How a stored command rings; `attempt` may be the next one. */
export function ringingOf(row: CommandRow, epoch: number, attempt: number, startWithinMs: number): Ringing {
  return {
    tenantId: row.tenant_id,
    commandId: row.id,
    vmUuid: row.vm_uuid,
    attempt,
    epoch,
    lane: row.lane,
    action: row.action,
    payloadSha256: row.payload_sha256,
    startWithinMs,
    context: contextOf(row),
  };
}

export interface Told {
  readonly row: CommandRow;
  readonly life: Transition;
  readonly at: Date;
  /** Of the agent that was granted the claim. */
  readonly agentId?: string | undefined;
  readonly result?: CommandResult | undefined;
  readonly deadLetterId?: string | undefined;
}

/** What the rest of the mesh is told of a transition. */
export function eventsOf(told: Told): PreparedMessage[] {
  const { row, life, at } = told;
  const fact = {
    command_id: row.id,
    vm_uuid: row.vm_uuid,
    action: row.action,
    attempt: life.attempt,
    at: at.toISOString(),
  };
  const o = { context: contextOf(row), tenantId: row.tenant_id, orderingKey: row.id, subject: row.id };
  const messages: PreparedMessage[] = [];
  if (life.rule === "claim_granted" && told.agentId !== undefined) {
    messages.push(prepareEvent(commandStarted, { ...fact, agent_id: told.agentId }, o));
  }
  if (life.rule === "replay" && told.deadLetterId !== undefined) {
    messages.push(prepareEvent(commandReplayed, { ...fact, dead_letter_id: told.deadLetterId }, o));
  }
  if (!isTerminal(life.state)) return messages;
  const { reason, effect, late, state } = life;
  const outcome = {
    exit_code: told.result?.exit_code ?? null,
    run_ms: told.result?.run_ms ?? null,
    environment: row.environment,
    project_id: row.project_id,
  };
  messages.push(prepareEvent(commandFinished, { ...fact, state, reason, effect, late, ...outcome }, o));
  if (state === "dead_lettered") {
    const last_error = told.result?.error ?? null;
    const death = {
      reason,
      rule: life.rule,
      requeues: life.requeues,
      correlation_id: row.correlation_id,
      last_error,
    };
    messages.push(prepareEvent(commandDeadLettered, { ...fact, ...death }, o));
  }
  return messages;
}
