import { randomBytes } from "node:crypto";

/** A value that is nowhere by chance, in every form that it could be written in. */
export interface Canary {
  readonly value: string;
  /** Names of the forms that are in there. */
  formsIn(bytes: Buffer | string): string[];
  /** The same of bytes that come piece by piece: `found` is told of each form, once. */
  watch(found: (form: string) => void): (chunk: Buffer) => void;
}

/** Characters that JSON, URLs and shells each write in their own way. */
const odd = '+/ é%"\\&';

export function makeCanary(): Canary {
  const value = `canary${odd}${randomBytes(12).toString("hex")}${odd}end`;
  const forms = formsOf(value);
  const longest = Math.max(...[...forms.values()].map((form) => form.length));
  const formsIn = (bytes: Buffer): string[] =>
    [...forms].filter(([, form]) => bytes.includes(form)).map(([name]) => name);
  return {
    value,
    formsIn: (bytes) => formsIn(typeof bytes === "string" ? Buffer.from(bytes) : bytes),
    watch(found) {
      let tail = Buffer.alloc(0);
      return (chunk) => {
        const seen = Buffer.concat([tail, chunk]);
        for (const form of formsIn(seen)) found(form);
        tail = Buffer.from(seen.subarray(Math.max(0, seen.length - longest + 1)));
      };
    },
  };
}

/** What of a text in base64 stays the same whatever stands before and after it, for each of the three ways to lie in it. */
function base64Middles(value: string): [string, string][] {
  const bytes = Buffer.from(value);
  return [0, 1, 2].flatMap((shift): [string, string][] => {
    const text = Buffer.concat([Buffer.alloc(shift), bytes]).toString("base64url");
    const middle = text.slice(shift === 0 ? 0 : shift + 1, Math.floor(((shift + bytes.length) * 4) / 3) - 1);
    const standard = middle.replaceAll("-", "+").replaceAll("_", "/");
    return [
      [`base64url at ${shift}`, middle],
      [`base64 at ${shift}`, standard],
    ];
  });
}

function formsOf(value: string): Map<string, Buffer> {
  const hex = Buffer.from(value).toString("hex");
  const url = encodeURIComponent(value);
  const texts: [string, string][] = [
    ["literal", value],
    ["in JSON", JSON.stringify(value).slice(1, -1)],
    ["in JSON, twice", JSON.stringify(JSON.stringify(value)).slice(3, -3)],
    ["hex", hex],
    ["HEX", hex.toUpperCase()],
    ["URL-encoded", url],
    ["URL-encoded, lower case", url.replaceAll(/%[0-9A-F]{2}/g, (octet) => octet.toLowerCase())],
    ["form-encoded", url.replaceAll("%20", "+")],
    ...base64Middles(value),
  ];
  return new Map(texts.map(([name, text]) => [name, Buffer.from(text)]));
}
