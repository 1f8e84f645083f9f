import type { Automaton } from "./automaton.ts";
import type { SecretForms } from "./secret-forms.ts";

/** What stands in place of a secret. */
const masked = Buffer.from("***");

interface Span {
  start: number;
  end: number;
}

/** One way to look at a stream. Offsets are of the stream, from its beginning. */
interface View {
  /** Looks at the bytes that begin at `offset`; notes what was found, in the order of its ends. */
  look(chunk: Buffer, offset: number): void;
  /** Nothing that is found later begins before this. */
  readonly safe: number;
  /** No more bytes will come. */
  end(): void;
  readonly found: Span[];
}

/** Spans come in the order of their ends: what overlaps becomes one. */
function note(found: Span[], start: number, end: number): void {
  let from = start;
  for (let last = found.at(-1); last !== undefined && last.end > from; last = found.at(-1)) {
    from = Math.min(from, last.start);
    found.pop();
  }
  found.push({ start: from, end });
}

/** The bytes as they are. */
class PlainView implements View {
  readonly found: Span[] = [];
  readonly #automaton: Automaton;
  readonly #begins: Uint8Array;
  #state = 0;
  #offset = 0;

  constructor(automaton: Automaton) {
    this.#automaton = automaton;
    this.#begins = automaton.beginnings();
  }

  get safe(): number {
    return this.#offset - this.#automaton.depth(this.#state);
  }

  look(chunk: Buffer, offset: number): void {
    const automaton = this.#automaton;
    const begins = this.#begins;
    let state = this.#state;
    for (let at = 0; at < chunk.length; at++) {
      const byte = chunk[at] ?? 0;
      if (state === 0 && begins[byte] === 0) continue;
      state = automaton.next(state, byte);
      const length = automaton.match(state);
      if (length > 0) note(this.found, offset + at + 1 - length, offset + at + 1);
    }
    this.#state = state;
    this.#offset = offset + chunk.length;
  }

  end(): void {
    // Every byte was looked at when it came.
  }
}

/** Symbols that more or fewer than one byte stand for; remembers where each of the last ones began. */
abstract class SymbolView implements View {
  readonly found: Span[] = [];
  /** Bytes that have begun a symbol. */
  protected open: number[] = [];
  readonly #automaton: Automaton;
  /** 1 for each byte that changes something where no form has begun. */
  readonly #begins: Uint8Array;
  readonly #starts: Float64Array;
  #state = 0;
  #count = 0;
  #offset = 0;

  /** `also`: bytes that begin a form where `begins` does, or by themselves. */
  constructor(automaton: Automaton, also: (begins: Uint8Array) => void) {
    this.#automaton = automaton;
    this.#begins = automaton.beginnings();
    also(this.#begins);
    this.#starts = new Float64Array(2 ** Math.ceil(Math.log2(automaton.longest + 1)));
  }

  get safe(): number {
    const depth = this.#automaton.depth(this.#state);
    return depth === 0 ? this.#offset : this.#startOf(depth);
  }

  /** Where the symbol began that is so many back; the last one is 1 back. */
  #startOf(back: number): number {
    return this.#starts[(this.#count - back) & (this.#starts.length - 1)] ?? 0;
  }

  look(chunk: Buffer, offset: number): void {
    const begins = this.#begins;
    for (let at = 0; at < chunk.length; at++) {
      const byte = chunk[at] ?? 0;
      if (this.#state === 0 && begins[byte] === 0 && this.open.length === 0) continue;
      this.take(byte, offset + at);
    }
    this.#offset = offset + chunk.length;
  }

  protected abstract take(byte: number, at: number): void;

  end(): void {
    // Nothing is open, but in an encoding.
  }

  protected put(symbol: number, start: number, end: number): void {
    this.#starts[this.#count++ & (this.#starts.length - 1)] = start;
    this.#state = this.#automaton.next(this.#state, symbol);
    const length = this.#automaton.match(this.#state);
    if (length > 0) note(this.found, this.#startOf(length), end);
  }

  protected forget(): void {
    this.#state = 0;
  }
}

const [lf, cr, percent, plus, space] = [0x0a, 0x0d, 0x25, 0x2b, 0x20];
const [minus, underline, slash] = [0x2d, 0x5f, 0x2f];
/** Between two lines of base64. */
const lineBreakBytesMax = 2;

/** Base64 in either alphabet, in one line or in many. */
class Base64View extends SymbolView {
  #breaks = 0;

  constructor(automaton: Automaton) {
    super(automaton, (begins) => {
      begins[minus] = begins[plus] ?? 0;
      begins[underline] = begins[slash] ?? 0;
    });
  }

  protected take(byte: number, at: number): void {
    if (byte === lf || byte === cr) {
      this.#breaks += 1;
      if (this.#breaks > lineBreakBytesMax) this.forget();
      return;
    }
    this.#breaks = 0;
    this.put(byte === minus ? plus : byte === underline ? slash : byte, at, at + 1);
  }
}

/** -1 for what is no hexadecimal digit. */
function hexOf(byte: number): number {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const letter = byte | 0x20;
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x61 + 10 : -1;
}

/** Percent-encoding, decoded, whichever characters were encoded; in forms `+` is a space. */
class DecodedView extends SymbolView {
  readonly #ofForm: boolean;
  #openAt = 0;

  constructor(automaton: Automaton, ofForm: boolean) {
    super(automaton, (begins) => {
      begins[percent] = 1;
      if (ofForm) begins[plus] = begins[space] ?? 0;
    });
    this.#ofForm = ofForm;
  }

  override get safe(): number {
    return this.open.length === 0 ? super.safe : Math.min(super.safe, this.#openAt);
  }

  protected take(byte: number, at: number): void {
    const [, high] = this.open;
    if (high !== undefined && hexOf(byte) >= 0) {
      this.open = [];
      this.put(hexOf(high) * 16 + hexOf(byte), this.#openAt, at + 1);
    } else if (this.open.length === 1 && hexOf(byte) >= 0) this.open.push(byte);
    else {
      this.end();
      if (byte === percent) [this.open, this.#openAt] = [[byte], at];
      else this.put(byte === plus && this.#ofForm ? space : byte, at, at + 1);
    }
  }

  /** What looked like an encoding was none. */
  override end(): void {
    const open = this.open;
    this.open = [];
    open.forEach((byte, index) => this.put(byte, this.#openAt + index, this.#openAt + index + 1));
  }
}

/**
 * Replaces every form of secrets in one stream by `***`, however the stream is cut into chunks. What may be the beginning of a
 * form is held back until it is known to be none; forms that overlap are replaced together.
 */
export class Mask {
  readonly #views: readonly View[];
  /** Bytes that came and were not given on; the first is at `#given`. */
  #tail: Buffer = Buffer.alloc(0);
  #given = 0;
  #came = 0;
  /** Where the last span ends that was given on as masked. */
  #maskedTo = 0;
  #found: Span[] = [];

  constructor(forms: SecretForms) {
    const { plain, base64, decoded, spaces } = forms;
    this.#views = [
      new PlainView(plain),
      ...(base64 === undefined ? [] : [new Base64View(base64)]),
      ...(decoded === undefined ? [] : [new DecodedView(decoded, false)]),
      ...(decoded === undefined || !spaces ? [] : [new DecodedView(decoded, true)]),
    ];
  }

  /** What may be given on now. */
  push(chunk: Buffer): Buffer[] {
    for (const view of this.#views) view.look(chunk, this.#came);
    this.#tail = this.#tail.length === 0 ? chunk : Buffer.concat([this.#tail, chunk]);
    this.#came += chunk.length;
    return this.#give(Math.min(...this.#views.map((view) => view.safe)));
  }

  /** The rest. */
  end(): Buffer[] {
    for (const view of this.#views) view.end();
    return this.#give(this.#came);
  }

  #give(upTo: number): Buffer[] {
    this.#gather();
    const parts: Buffer[] = [];
    let at = this.#given;
    const copyTo = (end: number): void => {
      const from = Math.max(at, Math.min(this.#maskedTo, end));
      if (from < end) parts.push(this.#tail.subarray(from - this.#given, end - this.#given));
      at = end;
    };
    let done = 0;
    for (const { start, end } of this.#found) {
      if (start >= upTo) break;
      done += 1;
      if (start >= this.#maskedTo) {
        copyTo(start);
        parts.push(masked);
      }
      this.#maskedTo = Math.max(this.#maskedTo, end);
    }
    this.#found.splice(0, done);
    copyTo(upTo);
    this.#tail = this.#tail.subarray(upTo - this.#given);
    this.#given = upTo;
    return parts;
  }

  #gather(): void {
    for (const { found } of this.#views) this.#found = this.#found.concat(found.splice(0));
    this.#found.sort((a, b) => a.start - b.start);
  }
}
