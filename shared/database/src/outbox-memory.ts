import type { PreparedMessage } from "@muster/contracts/message";

/** `memory`: handed over by the transaction that wrote it. `poll`: read back from the table. */
export type OutboxPath = "memory" | "poll";

export interface OutboxEntry {
  readonly id: number;
  readonly message: PreparedMessage;
  readonly path: OutboxPath;
  /** Monotonic milliseconds until which other relays leave the row to us. */
  readonly leasedUntilMs: number;
  readonly addedMs: number;
  attempts: number;
  state: "waiting" | "ready" | "publishing" | "resting";
}

export interface Arrival {
  readonly id: number;
  readonly message: PreparedMessage;
  /** The row of the same ordering key right before this one, if one stood. */
  readonly after: number | null;
  readonly attempts?: number;
}

const goneMax = 20_000;

/**
 * The part of the outbox that this process holds in memory. It only speeds things up: the table has every row, and
 * to forget an entry is always safe.
 *
 * Order: a row is published only when the row of its key before it is known to be routed (here) or gone from the
 * table (anywhere). Every relay keeps to that, so by induction a key's rows are first routed in their order, however
 * many relays there are and whatever fails. To wait for the direct predecessor is enough for the same reason.
 */
export class OutboxMemory {
  readonly #entries = new Map<number, OutboxEntry>();
  readonly #waiters = new Map<number, OutboxEntry[]>();
  readonly #gone = new RecentIds(goneMax);
  #ready: OutboxEntry[] = [];
  #readyHead = 0;
  #bytes = 0;
  #publishing = 0;
  #polled = 0;

  get size(): number {
    return this.#entries.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get publishing(): number {
    return this.#publishing;
  }

  /** How many of the entries were read back from the table. */
  get polled(): number {
    return this.#polled;
  }

  /** How long the oldest entry has been here, in milliseconds. */
  oldestMs(nowMs: number): number {
    for (const entry of this.#entries.values()) return Math.max(0, nowMs - entry.addedMs);
    return 0;
  }

  /** True if nothing here stands before it: its predecessor is gone, or there was none, or it is here too. */
  isOwn(after: number | null): boolean {
    return after === null || this.#gone.has(after) || this.#entries.has(after);
  }

  add(arrival: Arrival, path: OutboxPath, nowMs: number, leaseMs: number): void {
    if (this.#entries.has(arrival.id) || this.#gone.has(arrival.id)) return;
    const { id, message, after } = arrival;
    const waits = after !== null && !this.#gone.has(after);
    const entry: OutboxEntry = {
      id,
      message,
      path,
      leasedUntilMs: nowMs + leaseMs,
      addedMs: nowMs,
      attempts: arrival.attempts ?? 0,
      state: waits ? "waiting" : "ready",
    };
    this.#entries.set(id, entry);
    this.#bytes += message.body.length;
    if (path === "poll") this.#polled++;
    if (!waits) {
      this.#ready.push(entry);
      return;
    }
    const others = this.#waiters.get(after);
    if (others === undefined) this.#waiters.set(after, [entry]);
    else others.push(entry);
  }

  /** The next to publish; it counts as publishing until `routed`, `rest` or `forget`. */
  next(): OutboxEntry | undefined {
    while (this.#readyHead < this.#ready.length) {
      const entry = this.#ready[this.#readyHead++];
      if (this.#readyHead > 1_024 && this.#readyHead * 2 > this.#ready.length) {
        this.#ready = this.#ready.slice(this.#readyHead);
        this.#readyHead = 0;
      }
      // A forgotten entry stays in the line until it comes up.
      if (entry?.state !== "ready" || this.#entries.get(entry.id) !== entry) continue;
      entry.state = "publishing";
      this.#publishing++;
      return entry;
    }
    return undefined;
  }

  /** It is on the broker, or dropped for good: it leaves, and whoever waited for it may go. */
  done(entry: OutboxEntry): void {
    this.#remove(entry);
    this.gone(entry.id);
  }

  /** A row that is no longer in the table, or routed. */
  gone(id: number): void {
    this.#gone.add(id);
    const waiters = this.#waiters.get(id) ?? [];
    this.#waiters.delete(id);
    for (const waiter of waiters) {
      waiter.state = "ready";
      this.#ready.push(waiter);
    }
  }

  /** The publish failed; the entry stays, and its followers wait on, until `wake`. */
  rest(entry: OutboxEntry): void {
    if (entry.state === "publishing") this.#publishing--;
    entry.state = "resting";
  }

  wake(entry: OutboxEntry): void {
    if (entry.state !== "resting" || this.#entries.get(entry.id) !== entry) return;
    entry.state = "ready";
    this.#ready.push(entry);
  }

  /** Leaves the entry and all that wait for it to the table. */
  forget(entry: OutboxEntry): OutboxEntry[] {
    const forgotten: OutboxEntry[] = [];
    const line = [entry];
    for (let next = line.pop(); next !== undefined; next = line.pop()) {
      if (!this.#remove(next)) continue;
      forgotten.push(next);
      line.push(...(this.#waiters.get(next.id) ?? []));
      this.#waiters.delete(next.id);
    }
    return forgotten;
  }

  /** Forgets what has outstayed its lease and is not being published. */
  expire(nowMs: number): void {
    for (const entry of this.#entries.values()) {
      if (entry.leasedUntilMs > nowMs || entry.state === "publishing") continue;
      this.forget(entry);
    }
  }

  /** Rows waited for that another process holds, or that were left to the table. */
  foreign(): number[] {
    const ids: number[] = [];
    for (const [id, waiters] of this.#waiters) {
      if (!waiters.some((waiter) => this.#entries.get(waiter.id) === waiter)) this.#waiters.delete(id);
      else if (!this.#entries.has(id)) ids.push(id);
    }
    return ids;
  }

  /** All that is here and not being published. */
  idleIds(): number[] {
    const idle: number[] = [];
    for (const entry of this.#entries.values()) if (entry.state !== "publishing") idle.push(entry.id);
    return idle;
  }

  #remove(entry: OutboxEntry): boolean {
    if (this.#entries.get(entry.id) !== entry) return false;
    if (entry.state === "publishing") this.#publishing--;
    this.#entries.delete(entry.id);
    this.#bytes -= entry.message.body.length;
    if (entry.path === "poll") this.#polled--;
    return true;
  }
}

/** The last so many ids. */
class RecentIds {
  readonly #ids = new Set<number>();
  readonly #max: number;

  constructor(max: number) {
    this.#max = max;
  }

  has(id: number): boolean {
    return this.#ids.has(id);
  }

  add(id: number): void {
    this.#ids.add(id);
    if (this.#ids.size <= this.#max) return;
    for (const oldest of this.#ids) {
      this.#ids.delete(oldest);
      break;
    }
  }
}
