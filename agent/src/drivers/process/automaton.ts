/**
 * Finds all of many patterns in one pass over bytes, in the way of Aho and Corasick (1975). Made for few and long patterns: the
 * child of a node is mostly the next node, so that a byte of a pattern costs some 15 bytes and not a table.
 * No dependencies: it runs inside the supervisor.
 */
export class Automaton {
  /** Length of the longest pattern. */
  readonly longest: number;
  /** The byte that leads from a node to the one after it; -1 where none does. */
  readonly #chain: Int16Array;
  readonly #isFork: Uint8Array;
  /** Other children, by node and byte. */
  readonly #forks = new Map<number, number>();
  readonly #fail: Int32Array;
  readonly #depth: Int32Array;
  /** Length of the longest pattern that ends at a node; 0 where none does. */
  readonly #match: Int32Array;
  #size = 1;

  /** Patterns are not empty. */
  constructor(patterns: readonly Uint8Array[]) {
    const capacity = patterns.reduce((sum, { length }) => sum + length, 1);
    this.longest = patterns.reduce((longest, { length }) => Math.max(longest, length), 0);
    this.#chain = new Int16Array(capacity).fill(-1);
    this.#isFork = new Uint8Array(capacity);
    this.#fail = new Int32Array(capacity);
    this.#depth = new Int32Array(capacity);
    this.#match = new Int32Array(capacity);
    for (const pattern of patterns) this.#insert(pattern);
    this.#link();
  }

  #insert(pattern: Uint8Array): void {
    let node = 0;
    for (const byte of pattern) {
      let child = this.#child(node, byte);
      if (child === 0) {
        child = this.#size++;
        this.#depth[child] = (this.#depth[node] ?? 0) + 1;
        if (child === node + 1) this.#chain[node] = byte;
        else {
          this.#isFork[node] = 1;
          this.#forks.set(node * 256 + byte, child);
        }
      }
      node = child;
    }
    this.#match[node] = pattern.length;
  }

  /** 0 where there is none: the root is nobody's child. */
  #child(node: number, byte: number): number {
    if (this.#chain[node] === byte) return node + 1;
    return this.#isFork[node] === 1 ? (this.#forks.get(node * 256 + byte) ?? 0) : 0;
  }

  /** 1 for each byte that begins a pattern. */
  beginnings(): Uint8Array {
    return Uint8Array.from({ length: 256 }, (_, byte) => (this.#child(0, byte) === 0 ? 0 : 1));
  }

  /** Each node's longest proper suffix that begins a pattern, level by level. */
  #link(): void {
    const forks = new Map<number, number[]>();
    for (const [key] of this.#forks) {
      const node = Math.floor(key / 256);
      forks.set(node, [...(forks.get(node) ?? []), key % 256]);
    }
    const queue = new Int32Array(this.#size);
    let filled = 1;
    for (let at = 0; at < filled; at++) {
      const node = queue[at] ?? 0;
      const chained = this.#chain[node] ?? -1;
      for (const byte of [...(chained < 0 ? [] : [chained]), ...(forks.get(node) ?? [])]) {
        const child = this.#child(node, byte);
        const fail = node === 0 ? 0 : this.next(this.#fail[node] ?? 0, byte);
        this.#fail[child] = fail;
        if (this.#match[child] === 0) this.#match[child] = this.#match[fail] ?? 0;
        queue[filled++] = child;
      }
    }
  }

  /** The state after this byte; the first state is 0. */
  next(state: number, byte: number): number {
    for (let node = state; ; node = this.#fail[node] ?? 0) {
      const child = this.#child(node, byte);
      if (child !== 0 || node === 0) return child;
    }
  }

  /** How many of the last bytes begin a pattern. */
  depth(state: number): number {
    return this.#depth[state] ?? 0;
  }

  /** How many of the last bytes are a pattern: the longest; 0 for none. */
  match(state: number): number {
    return this.#match[state] ?? 0;
  }
}
