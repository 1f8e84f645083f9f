/** Which lines of a kind to log when it may come at any rate: the first ones of each period, with how many were held back. */
export class Sparing {
  readonly #o: { readonly linesMax: number; readonly periodMs: number; readonly now: () => number };
  readonly #kinds = new Map<string, { untilMs: number; lines: number; held: number }>();

  constructor(o: { linesMax?: number; periodMs?: number; now?: () => number } = {}) {
    this.#o = { linesMax: 10, periodMs: 10_000, now: () => performance.now(), ...o };
  }

  /** Undefined: hold this one back. Else log it, and that so many were held back since the line before. Kinds are few. */
  next(kind: string): number | undefined {
    const nowMs = this.#o.now();
    const known = this.#kinds.get(kind);
    const held = known?.held ?? 0;
    if (known === undefined || known.untilMs <= nowMs) {
      this.#kinds.set(kind, { untilMs: nowMs + this.#o.periodMs, lines: 1, held: 0 });
      return held;
    }
    if (known.lines < this.#o.linesMax) {
      known.lines += 1;
      return held;
    }
    known.held += 1;
    return undefined;
  }
}
