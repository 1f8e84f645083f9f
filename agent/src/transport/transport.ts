import type { Doorbell } from "@muster/contracts/agents";
import type { PayloadInputOf, ReplyOf, ReportContract } from "@muster/contracts/define";

export interface BellDelivery {
  readonly bell: Doorbell;
  /** The doorbell is journaled: the transport may forget it. */
  accept(): void;
}

export interface Closing {
  close(): Promise<void>;
}

/** The way to the mesh: reports with their replies, and doorbells. */
export interface Transport {
  readonly name: string;
  /** Throws MusterError, also when nobody answers in time or `signal` is aborted. */
  report<C extends ReportContract>(
    contract: C,
    payload: PayloadInputOf<C>,
    options?: { readonly timeoutMs?: number; readonly signal?: AbortSignal },
  ): Promise<ReplyOf<C>>;
  /** Doorbells of one VM, in order; unreadable ones never get here. */
  listen(vmUuid: string, onBell: (delivery: BellDelivery) => void): Promise<Closing>;
  /** Counts up when the way was interrupted and is there again. */
  onRestored(listener: () => void): void;
  close(): Promise<void>;
}
