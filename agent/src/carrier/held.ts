import type { ActionName, Lane } from "@muster/contracts/actions";
import type { Logger } from "@muster/telemetry/logger";
import type { Running } from "../drivers/driver.ts";
import { handleOf, type AttemptKey, type AttemptRow } from "../journal/records.ts";
import { Alarm } from "../session/alarm.ts";

/** One attempt in the agent's hands. Times are of the monotonic clock, in milliseconds. */
export interface Held {
  readonly key: AttemptKey;
  readonly handle: string;
  readonly vmUuid: string;
  readonly epoch: number;
  readonly lane: Lane;
  readonly order: string;
  readonly action: ActionName;
  readonly correlationId: string;
  /** The same for every claim of this attempt: the same nonce gets the same grant. */
  readonly nonce: string;
  readonly logger: Logger;
  /** Cut a wait short: to claim now, or to ask for the desired state now. */
  readonly alarm: Alarm;
  token: string | undefined;
  leaseEndsMs: number;
  running: Running | undefined;
  /** Ends what it waits for between its grant and its start. */
  waiting: AbortController | undefined;
  /** It was told to be, perhaps before there was anything to stop. */
  cancelled: boolean;
  /** Its lease is kept from its first wait to its end. */
  leaseKept: boolean;
  /** Nothing is to be kept any more. */
  over: boolean;
}

type Fields = Pick<
  AttemptRow,
  "command_id" | "attempt" | "vm_uuid" | "epoch" | "lane" | "action" | "correlation_id" | "nonce" | "token"
>;

export function hold(fields: Fields, nonce: string, logger: Logger): Held {
  const key = { commandId: fields.command_id, attempt: fields.attempt };
  let own: Logger | undefined;
  return {
    key,
    handle: handleOf(key),
    vmUuid: fields.vm_uuid,
    epoch: fields.epoch,
    lane: fields.lane,
    order: fields.command_id,
    action: fields.action,
    correlationId: fields.correlation_id,
    nonce: fields.nonce ?? nonce,
    get logger() {
      return (own ??= logger.child({
        correlation_id: fields.correlation_id,
        command_id: fields.command_id,
        attempt: fields.attempt,
        vm_uuid: fields.vm_uuid,
      }));
    },
    alarm: new Alarm(),
    token: fields.token ?? undefined,
    leaseEndsMs: 0,
    running: undefined,
    waiting: undefined,
    cancelled: false,
    leaseKept: false,
    over: false,
  };
}

/** What a claim says of an attempt. */
export function claimOf({ key, vmUuid, epoch, nonce }: Held) {
  return { command_id: key.commandId, attempt: key.attempt, vm_uuid: vmUuid, epoch, nonce };
}
