/** One job of a peer: what is measured is its number. */
export interface Job {
  readonly n: number;
  readonly payload: string;
}

/** A library that keeps jobs durably, as its documentation uses it. */
export interface Peer {
  /** Makes its tables. Once, before producers and workers. */
  prepare(): Promise<void>;
  openProducer(): Promise<{ enqueue(job: Job): Promise<void>; close(): Promise<void> }>;
  /** Takes jobs until stopped. */
  openWorker(onDone: (n: number, doneMs: number) => void, clock: () => number): Promise<PeerWorker>;
}

export interface PeerWorker {
  /** For a library that does not tell when a job is written as done: reads it from its tables. */
  collect?(): Promise<void>;
  stop(): Promise<void>;
}

export const concurrency = 50;
export const poolMax = 16;
