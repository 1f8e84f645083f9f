import type { PreparedMessage } from "@muster/contracts/message";

/** An outbox row as its writer knows it right after the commit. */
export interface WrittenMessage {
  readonly id: number;
  readonly message: PreparedMessage;
  /** The row of the same ordering key that stood right before this one when it was written. */
  readonly after: number | null;
}

/** Of messages that wait for the broker as a whole; not of those that one destination holds up. */
export interface OutboxState {
  readonly depth: number;
  readonly oldestAgeMs: number;
}

/** What a relay offers to the transactions of its own process. */
export interface DeskRelay {
  /** How long other relays must leave a fresh row to this process; 0 when it takes no more for now. */
  leaseMs(): number;
  take(written: readonly WrittenMessage[]): void;
  state(): OutboxState;
}

/** Where a committed transaction hands its messages to the relay of the same process. */
export interface OutboxDesk {
  leaseMs(): number;
  handOver(written: readonly WrittenMessage[]): void;
  state(): OutboxState;
  /** At most one relay per database; the returned function detaches it. */
  attach(relay: DeskRelay): () => void;
}

export function makeOutboxDesk(): OutboxDesk {
  let attached: DeskRelay | undefined;
  return {
    leaseMs: () => attached?.leaseMs() ?? 0,
    handOver: (written) => attached?.take(written),
    state: () => attached?.state() ?? { depth: 0, oldestAgeMs: 0 },
    attach(relay) {
      if (attached !== undefined)
        throw new Error("this database has an outbox relay already; close it first");
      attached = relay;
      return () => {
        if (attached === relay) attached = undefined;
      };
    },
  };
}
