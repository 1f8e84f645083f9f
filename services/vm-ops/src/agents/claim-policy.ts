import type { denyReasons } from "@muster/contracts/agents";
import type { Lane } from "@muster/contracts/actions";
import { isTerminal } from "@muster/contracts/commands";
import type { CommandState } from "@muster/contracts/commands";

export interface Claim {
  readonly agentId: string;
  readonly commandId: string;
  readonly vmUuid: string;
  readonly attempt: number;
  readonly epoch: number;
  readonly nonce: string;
}

/** The command as it is, locked. */
export interface Claimed {
  readonly vmUuid: string;
  readonly lane: Lane;
  readonly state: CommandState;
  readonly attempt: number;
  readonly agentId: string | null;
  readonly nonce: string | null;
  readonly expired: boolean;
  readonly payloadBytes: number;
}

/** Its VM, locked; changes as claims of one batch are granted. */
export interface ClaimedVm {
  readonly active: boolean;
  readonly epoch: number;
  readonly concurrency: number;
  readonly agentId: string | null;
  /** Commands of the work lane that run. */
  running: number;
  /** Waiting commands of the work lane in the order of acceptance: only the first may start. */
  readonly waiting: string[];
}

interface Denial {
  readonly kind: "deny";
  readonly reason: (typeof denyReasons)[number];
  readonly retryAfterMs?: number;
  /** The command that must start first, and for which there is room: its doorbell may be lost. */
  readonly first?: string;
}

export type ClaimVerdict =
  | { readonly kind: "grant" }
  /** The same nonce again: the grant may have been lost on its way. */
  | { readonly kind: "grant_again" }
  | Denial;

const deny = (reason: (typeof denyReasons)[number], retryAfterMs?: number): Denial =>
  retryAfterMs === undefined ? { kind: "deny", reason } : { kind: "deny", reason, retryAfterMs };

const busyRetryMs = 1_000;
const retryMs = 200;
const unboundRetryMs = 2_000;
const approvalRetryMs = 10_000;

/**
 * Whether this claim may start its command: the only door to a side effect. `bytesLeft` is what still fits into the
 * reply. A grant is noted in `vm`, so that claims of one batch are judged in their order.
 */
export function judgeClaim(
  claim: Claim,
  command: Claimed | undefined,
  vm: ClaimedVm | undefined,
  bytesLeft: number,
): ClaimVerdict {
  if (command === undefined || vm === undefined || command.vmUuid !== claim.vmUuid) return deny("superseded");
  if (command.attempt !== claim.attempt) return deny(endReason(command.state));
  if (command.state === "running") {
    const same = command.nonce === claim.nonce && command.agentId === claim.agentId;
    if (!same) return deny("superseded");
    return command.payloadBytes > bytesLeft ? deny("retry", retryMs) : { kind: "grant_again" };
  }
  if (isTerminal(command.state)) return deny(endReason(command.state));
  if (!vm.active || vm.epoch !== claim.epoch) return deny("wrong_epoch");
  if (vm.agentId !== claim.agentId) {
    return vm.agentId === null ? deny("retry", unboundRetryMs) : deny("superseded");
  }
  if (command.expired) return deny("expired");
  if (command.state === "awaiting_approval") return deny("paused", approvalRetryMs);
  if (command.lane === "work") {
    const [first] = vm.waiting;
    if (vm.running >= vm.concurrency) return deny("vm_busy", busyRetryMs);
    if (first !== claim.commandId) {
      return { ...deny("vm_busy", busyRetryMs), ...(first === undefined ? {} : { first }) };
    }
  }
  if (command.payloadBytes > bytesLeft) return deny("retry", retryMs);
  if (command.lane === "work") {
    vm.running += 1;
    vm.waiting.shift();
  }
  return { kind: "grant" };
}

function endReason(state: CommandState): "cancelled" | "expired" | "superseded" {
  return state === "cancelled" || state === "expired" ? state : "superseded";
}
