import type { Verified } from "./claims.ts";

/** Tokens that were verified, by their whole text; the least recently used goes first. */
export class TokenCache<V extends Pick<Verified, "expiresAtMs"> = Verified> {
  readonly #entries = new Map<string, V>();
  readonly #sizeMax: number;

  constructor(sizeMax: number) {
    this.#sizeMax = sizeMax;
  }

  /** Never a token that has expired. */
  get(token: string, nowMs: number): V | undefined {
    const entry = this.#entries.get(token);
    if (entry === undefined) return undefined;
    this.#entries.delete(token);
    if (entry.expiresAtMs <= nowMs) return undefined;
    this.#entries.set(token, entry);
    return entry;
  }

  put(token: string, verified: V): void {
    this.#entries.delete(token);
    this.#entries.set(token, verified);
    if (this.#entries.size <= this.#sizeMax) return;
    const oldest = this.#entries.keys().next();
    if (!oldest.done) this.#entries.delete(oldest.value);
  }

  clear(): void {
    this.#entries.clear();
  }

  get size(): number {
    return this.#entries.size;
  }
}
