import { expect } from "chai";
import fc from "fast-check";
import { describe, it } from "mocha";
import { Mask } from "./mask.ts";
import { formsOf } from "./secret-forms.ts";

function maskOf(values: readonly string[]): Mask {
  const forms = formsOf(values);
  if (forms === undefined) throw new Error("no values");
  return new Mask(forms);
}

function maskAll(values: readonly string[], chunks: readonly Buffer[]): Buffer {
  const mask = maskOf(values);
  return Buffer.concat([...chunks.flatMap((chunk) => mask.push(chunk)), ...mask.end()]);
}

const shown = (values: readonly string[], text: string): string =>
  maskAll(values, [Buffer.from(text)]).toString();

/** Cuts where `cuts` say, in order of size and modulo the length. */
function cut(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [...new Set(cuts.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b);
  return [0, ...places].map((from, index) => bytes.subarray(from, places[index] ?? bytes.length));
}

const lower = (text: string): string => text.replace(/%[0-9A-F]{2}/g, (one) => one.toLowerCase());
const wrapped = (text: string, columns: number): string =>
  text.replace(new RegExp(`(.{${columns}})`, "g"), "$1\n");
const base64 = (text: string): string => Buffer.from(text).toString("base64");

/** How others encode a value: no code of ours. Text that is around a value in base64 is `around`. */
const encodings: Record<string, (value: string, around: string) => string> = {
  literal: (value) => value,
  base64,
  "base64 without padding": (value) => base64(value).replace(/=+$/, ""),
  "base64 for URLs": (value) => Buffer.from(value).toString("base64url"),
  "base64 of more": (value, around) => base64(around + value + around),
  "base64 of more for URLs": (value, around) => Buffer.from(around + value + around).toString("base64url"),
  "base64 in lines": (value) => wrapped(base64(value), 76),
  "base64 in lines of Windows": (value) => wrapped(base64(value), 64).replaceAll("\n", "\r\n"),
  URL: encodeURIComponent,
  "URL in lower case": (value) => lower(encodeURIComponent(value)),
  form: (value) => new URLSearchParams([["", value]]).toString().slice(1),
  "form in lower case": (value) => lower(new URLSearchParams([["", value]]).toString().slice(1)),
  "every byte for a URL": (value) => Buffer.from(value).toString("hex").replace(/../g, "%$&"),
};

const text = (o: { min: number; max: number }) =>
  fc.oneof(
    fc.string({ minLength: o.min, maxLength: o.max, unit: "grapheme" }),
    fc.string({
      minLength: o.min,
      maxLength: o.max,
      unit: fc.constantFrom("a", "b", "+", "/", "%", " ", "\n", "="),
    }),
    fc.string({ minLength: o.min, maxLength: o.max, unit: fc.constantFrom("a", "b") }),
  );
const longText = text({ min: 12, max: 90 }).filter((value) => !value.includes("\0"));
const noise = fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes));
const cuts = fc.array(fc.nat(), { maxLength: 30 });

describe("the mask over a program's output", () => {
  it("takes out a value in each of its forms, and nothing around it", () => {
    const value = "p@ss wörd/+?=1234";
    for (const [name, encode] of Object.entries(encodings)) {
      const form = encode(value, "");
      expect(shown([value], `<${form}>`), name).to.match(/^<\*\*\*=*>$/);
      expect(shown([value], `<${form.slice(1, -3)}>`), `a part of ${name}`).to.not.include("***");
    }
  });

  it("takes out what of a value is sure to stand in the base64 of a longer text", () => {
    const value = "correct-horse-battery";
    for (const before of ["", "a", "bc", "def"]) {
      const out = shown([value], base64(`${before}${value}${before}`));
      expect(out, before).to.include("***");
      const left = Buffer.from(out.replace("***", ""), "base64url").toString("latin1");
      expect(left.length, before).to.be.at.most(2 * before.length + 2);
    }
    const asFile = shown([value], base64(`${value}\n`));
    expect(asFile).to.match(/^\*\*\*[A-Za-z0-9+/]{0,2}=*$/);
  });

  it("takes out each line of a value of many, and the value without its last line break", () => {
    const value = "first line\nsecond line\r\nend\n";
    expect(shown([value], "1: first line; 2: second line; 3: end")).to.equal("1: ***; 2: ***; 3: end");
    expect(shown(["token-1234\n"], `token-1234 ${base64("token-1234")} `)).to.match(/^\*\*\* \*\*\*=* $/);
  });

  it("knows a value of less than four bytes by its literal alone", () => {
    expect(shown(["abc"], `abc ${base64("abc")} xabcx`)).to.equal("*** YWJj x***x");
    expect(shown([" a"], "+a%20a a")).to.equal("+a%20a***");
  });

  it("replaces what overlaps together, whatever is masked first", () => {
    expect(shown(["abcd", "cdefgh"], "-abcdefgh-")).to.equal("-***-");
    expect(shown(["defg", "abcdefghij"], "-abcdefghij-")).to.equal("-***-");
    expect(shown(["aaaa"], "-aaaaaaa-")).to.equal("-***-");
    expect(shown(["abcd"], "abcdabcd")).to.equal("******");
  });

  it("gives on at once what cannot begin a form, and holds back no more than what can", () => {
    const mask = maskOf(["secret-value"]);
    const given = (chunk: string): string => Buffer.concat(mask.push(Buffer.from(chunk))).toString();
    expect(given("password: ")).to.equal("password: ");
    expect(given("se")).to.equal("");
    expect(given("vere")).to.equal("severe".slice(0, 6));
    expect(given("secret-valu")).to.equal("");
    expect(given("e!")).to.equal("***!");
    expect(given("secret")).to.equal("");
    expect(Buffer.concat(mask.end()).toString()).to.equal("secret");
  });

  it("makes the same of any chunks as of the whole, with no form left in it", () => {
    const property = fc.property(
      ...[fc.array(longText, { minLength: 1, maxLength: 3 }), fc.array(noise, { maxLength: 4 }), cuts],
      ...[fc.constantFrom(...Object.keys(encodings)), fc.nat({ max: 5 })],
      (values, noises, places, name, around) => {
        const encode = encodings[name] ?? ((value) => value);
        const forms = values.map((value) => Buffer.from(encode(value, "x".repeat(around))));
        const whole = Buffer.concat(
          [...forms, ...noises].flatMap((part, index) => [noises[index] ?? Buffer.from(":"), part]),
        );
        const atOnce = maskAll(values, [whole]);
        expect(maskAll(values, cut(whole, places)).equals(atOnce)).to.equal(true);
        expect(
          maskAll(
            values,
            [...whole].map((byte) => Buffer.from([byte])),
          ).equals(atOnce),
        ).to.equal(true);
        for (const form of name.includes("more") ? [] : forms) expect(atOnce.includes(form)).to.equal(false);
        for (const value of values) expect(atOnce.includes(value)).to.equal(false);
      },
    );
    fc.assert(property, { numRuns: 400 });
  });

  it("changes not a byte of what has no form in it, however near it comes", () => {
    const value = "pass word+1/äö%41";
    const whole = Object.entries(encodings).map(([, encode]) => Buffer.from(encode(value, "")));
    const nearly = fc
      .record({ form: fc.constantFrom(...whole), from: fc.nat({ max: 3 }), less: fc.nat({ max: 4 }) })
      .filter(({ from, less }) => from + less >= 4)
      .map(({ form, from, less }) => form.subarray(from, form.length - less));
    const binary = fc
      .uint8Array({ maxLength: 30 })
      .map((bytes) => Buffer.from(bytes.map((byte) => byte | 0x80)));
    const property = fc.property(
      fc.array(fc.oneof(nearly, binary), { maxLength: 12 }),
      cuts,
      (parts, places) => {
        const bytes = Buffer.concat(parts.flatMap((part) => [part, Buffer.from("\xff!", "latin1")]));
        expect(maskAll([value], cut(bytes, places)).equals(bytes)).to.equal(true);
      },
    );
    fc.assert(property, { numRuns: 400 });
  });

  it("masks megabytes with a value of the largest size in one pass", () => {
    const value = Buffer.from(Array.from({ length: 48 * 1024 }, (_, n) => (n * 7919) % 251)).toString(
      "base64",
    );
    const text = Buffer.from(`${"x".repeat(500_000)}${value}${"=".repeat(1_000_000)}${base64(value)}`);
    expect(maskAll([value], cut(text, [1, 65_536, 524_288, 600_000])).length).to.equal(1_500_006);
    const same = "a".repeat(64 * 1024);
    expect(shown([same], same.repeat(20))).to.equal("***");
  });
});
