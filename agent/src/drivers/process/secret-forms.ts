import { Automaton } from "./automaton.ts";

/** Everything by which values are known in text. */
export interface SecretForms {
  /** As they are, whole and by line. */
  readonly plain: Automaton;
  /** In base64, in the standard alphabet and without line breaks. */
  readonly base64: Automaton | undefined;
  /** In what percent-encoding hides, once it is decoded. */
  readonly decoded: Automaton | undefined;
  /** `+` may stand for a space. */
  readonly spaces: boolean;
}

/** Of shorter values only the literal is known: their other forms stand in ordinary text. */
const shortBytes = 4;
const lineCharactersMin = 4;
const base64CharactersMin = 8;
const lineEnd = /\r\n|\n|\r/;

/** Undefined without values, which are not empty. */
export function formsOf(values: readonly string[]): SecretForms | undefined {
  const distinct = [...new Set(values)];
  if (distinct.length === 0) return undefined;
  const whole = distinct.filter((value) => Buffer.byteLength(value) >= shortBytes);
  // A file ends with a line break that its readers take off.
  const stripped = whole.map((value) => value.replace(/[\r\n]+$/, ""));
  const encoded = [...new Set([...whole, ...stripped])].filter(
    (value) => Buffer.byteLength(value) >= shortBytes,
  );
  const lines = whole.flatMap(linesOf);
  const texts = [...new Set([...encoded, ...lines])];
  return {
    plain: new Automaton(bytesOf([...new Set([...distinct, ...texts])])),
    base64: encoded.length === 0 ? undefined : new Automaton(encoded.flatMap(base64Of)),
    decoded: texts.length === 0 ? undefined : new Automaton(bytesOf(texts)),
    spaces: texts.some((text) => text.includes(" ")),
  };
}

const bytesOf = (texts: readonly string[]): Buffer[] => texts.map((text) => Buffer.from(text));

function linesOf(value: string): string[] {
  const lines = value.split(lineEnd);
  return lines.length === 1 ? [] : lines.filter((line) => Array.from(line).length >= lineCharactersMin);
}

/**
 * What is sure to stand in the base64 of any text that holds this value, for each of the three places where it can begin in a
 * group of three bytes; and more of it where the text ends with the value.
 */
function base64Of(value: string): Buffer[] {
  const bytes = Buffer.from(value);
  const forms = [0, 1, 2].flatMap((before) => {
    const bits = (before + bytes.length) * 8;
    const text = Buffer.concat([Buffer.alloc(before), bytes]).toString("base64");
    const from = Math.ceil((before * 8) / 6);
    const sure = text.slice(from, Math.floor(bits / 6));
    const toTheEnd = text.slice(from, Math.ceil(bits / 6));
    const padded = text.slice(from);
    const isAll = (form: string): boolean => before === 0 && form.length >= toTheEnd.length;
    return [sure, toTheEnd, padded].filter((form) => isAll(form) || form.length >= base64CharactersMin);
  });
  return bytesOf(forms);
}
