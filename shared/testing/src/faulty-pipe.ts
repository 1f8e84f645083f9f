import type { Socket } from "node:net";

/** What a link does to the bytes of one direction. */
export interface Weather {
  /** Bytes vanish. */
  blackhole: boolean;
  /** Bytes wait, none is lost: what a network does that is away for a while. */
  stalled: boolean;
  delayMs: number;
  /** Infinity where nothing holds them up. */
  bytesPerSecond: number;
}

/** What waits in one pipe; beyond it the sender feels that nobody reads. */
const heldBytesMax = 1_048_576;
const slicesPerSecond = 20;

/** One direction of a connection: passes bytes in their order, when and as the weather lets it. */
export class FaultyPipe {
  readonly #from: Socket;
  readonly #to: Socket;
  readonly #weather: Weather;
  readonly #onPassed: (chunk: Buffer) => void;
  readonly #held: { chunk: Buffer; dueMs: number }[] = [];
  #heldBytes = 0;
  #freeAtMs = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(from: Socket, to: Socket, weather: Weather, onPassed: (chunk: Buffer) => void) {
    this.#from = from;
    this.#to = to;
    this.#weather = weather;
    this.#onPassed = onPassed;
    from.on("data", (chunk: Buffer) => this.#take(chunk));
  }

  #take(chunk: Buffer): void {
    if (this.#weather.blackhole) return;
    this.#held.push({ chunk, dueMs: performance.now() + this.#weather.delayMs });
    this.#heldBytes += chunk.length;
    if (this.#heldBytes > heldBytesMax) this.#from.pause();
    this.flow();
  }

  /** Passes what may go now; called again by itself, and by whoever makes the weather better. */
  flow(): void {
    clearTimeout(this.#timer);
    for (let next = this.#held[0]; next !== undefined; next = this.#held[0]) {
      if (this.#weather.stalled || this.#to.destroyed) return;
      const nowMs = performance.now();
      const dueMs = Math.max(this.#weather.delayMs === 0 ? 0 : next.dueMs, this.#freeAtMs);
      if (dueMs > nowMs) {
        this.#timer = setTimeout(() => this.flow(), dueMs - nowMs);
        return;
      }
      this.#pass(next, nowMs);
    }
    if (this.#from.isPaused()) this.#from.resume();
  }

  #pass(next: { chunk: Buffer; dueMs: number }, nowMs: number): void {
    const { bytesPerSecond } = this.#weather;
    const sliceBytes = Math.max(1, Math.floor(bytesPerSecond / slicesPerSecond));
    const slice = next.chunk.subarray(0, sliceBytes);
    if (slice.length === next.chunk.length) this.#held.shift();
    else next.chunk = next.chunk.subarray(slice.length);
    this.#heldBytes -= slice.length;
    this.#freeAtMs = Number.isFinite(bytesPerSecond) ? nowMs + (slice.length / bytesPerSecond) * 1_000 : 0;
    this.#to.write(slice);
    this.#onPassed(slice);
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#held.length = 0;
  }
}
