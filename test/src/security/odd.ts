import type { JsonSchema } from "@muster/contracts/schema";
import { range, samplesOf, strings } from "@muster/testing/samples";
import fc from "fast-check";

/** Text that breaks what was written for plain text. */
export const oddTexts = [
  "",
  "\0",
  "\ud800",
  "a\udfffb",
  "\ufeff",
  "‮live",
  "e\u0301\u0301\u0301",
  "👩‍👩‍👧‍👦",
  "\r\nset-cookie: a=b",
  "__proto__",
  "constructor",
  "NaN",
  "1e999",
  "../../etc/passwd",
  '"}],{"',
  "x".repeat(129),
  "😀".repeat(300),
] as const;

/** Times that a clock never showed. */
export const oddTimes = [
  "0000-01-01T00:00:00Z",
  "0001-01-01T00:00:00Z",
  "9999-12-31T23:59:59.999999999Z",
  "2024-02-29T23:59:60Z",
  "1969-12-31T23:59:59Z",
];

const oddNumbers = [0, -1, 1, 0.5, 1.000_5, 2 ** 31, 2 ** 32, 2 ** 53 - 1, -(2 ** 31), 1e300, 1e-300];

function oddStrings(schema: JsonSchema): fc.Arbitrary<string> {
  const pattern = typeof schema["pattern"] === "string" ? new RegExp(schema["pattern"], "u") : /^/;
  const min = Number(schema["minLength"] ?? 0);
  const max = Number(schema["maxLength"] ?? Infinity);
  const fits = (text: string) => text.length >= min && text.length <= max && pattern.test(text);
  const long =
    Number.isFinite(max) && max <= 16_384 ? ["x", "\0", "é", "\ud800"].map((unit) => unit.repeat(max)) : [];
  const times = schema["format"] === "date-time" ? oddTimes : [];
  const some = [...oddTexts, ...long, ...times].filter(fits);
  return some.length === 0 ? strings(schema) : fc.oneof(strings(schema), fc.constantFrom(...some));
}

function oddNumbersOf(schema: JsonSchema): fc.Arbitrary<number> {
  const { min, max } = range(schema, -Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
  const whole = schema["type"] === "integer";
  const fits = (value: number) => value >= min && value <= max && (!whole || Number.isSafeInteger(value));
  return fc.constantFrom(...[min, max, ...oddNumbers].filter(fits));
}

const oddJson: fc.Arbitrary<unknown> = fc.oneof(
  fc.jsonValue({ maxDepth: 4 }),
  fc.constantFrom<unknown>(...oddTexts, ...oddNumbers, null, true, [], {}),
  fc
    .constantFrom('{"__proto__":{"admin":true}}', '{"constructor":{"prototype":{}}}')
    .map((text): unknown => JSON.parse(text)),
  fc
    .integer({ min: 1, max: 40 })
    .map((depth): unknown => JSON.parse(`${"[".repeat(depth)}${"]".repeat(depth)}`)),
  fc.constantFrom(1_000, 70_000).map((size) => "x".repeat(size)),
  fc.constant(Array.from({ length: 2_000 }, () => 0)),
);

/** What no leaf of a body was meant to be; the text first that a database refuses. */
export const oddLeaves: readonly unknown[] = [
  ...oddTexts,
  ...oddTimes,
  ...oddNumbers,
  null,
  true,
  [],
  {},
  [[]],
];

/** Values that fit the schema, at the edges of what it allows. */
export const edgesOf = (schema: JsonSchema): fc.Arbitrary<unknown> =>
  samplesOf(schema, { strings: oddStrings, numbers: oddNumbersOf, anything: oddJson });

type Path = readonly (string | number)[];

/** Every place in a JSON value, itself first. */
export function pathsOf(value: unknown, at: Path = []): Path[] {
  if (typeof value !== "object" || value === null) return [at];
  return [at, ...Object.entries(value).flatMap(([key, inner]) => pathsOf(inner, [...at, key]))];
}

/** The value with another one at the path; an object gets the key as its own, whatever it is called. */
export function changedAt(value: unknown, [key, ...rest]: Path, to: unknown): unknown {
  if (key === undefined) return to;
  if (Array.isArray(value))
    return value.map((inner: unknown, at) =>
      String(at) === String(key) ? changedAt(inner, rest, to) : inner,
    );
  const entries = Object.entries(value as object).filter(([name]) => name !== key);
  const inner: unknown = Object.entries(value as object).find(([name]) => name === key)?.[1];
  const after = rest.length === 0 ? to : changedAt(inner, rest, to);
  return Object.fromEntries(after === undefined ? entries : [...entries, [key, after]]);
}

/** Nearly what the schema asks for: something in it is another thing, is missing, or is too much. */
export function nearMissesOf(schema: JsonSchema): fc.Arbitrary<unknown> {
  const somewhere = fc.nat({ max: 200 });
  const changed = fc.tuple(edgesOf(schema), somewhere, fc.oneof(oddJson, fc.constant(undefined)));
  const unknown = fc.tuple(edgesOf(schema), fc.constantFrom("nothing_of_ours", ...oddTexts), oddJson);
  return fc.oneof(
    changed.map(([value, n, to]) => {
      const paths = pathsOf(value);
      return changedAt(value, paths[n % paths.length] ?? [], to) ?? null;
    }),
    unknown.map(([value, key, to]) =>
      typeof value === "object" && value !== null && !Array.isArray(value)
        ? Object.fromEntries([...Object.entries(value), [key, to]])
        : to,
    ),
    oddJson,
  );
}

/** Text where JSON is expected, of which some is JSON that no serializer writes. */
export const oddJsonTexts = (good: string): fc.Arbitrary<string> => {
  const doubled = good.startsWith("{") && good.length > 2 ? [`{${good.slice(1, -1)},${good.slice(1)}`] : [];
  const numbers = ["1e999", "-1e999", "NaN", "Infinity", "01", "0x10", "1.", "1e-999", "9".repeat(400)];
  const inside = numbers.flatMap((text) => [text, `{"name":${text}}`, good.replace(/:[^,}]*/, `:${text}`)]);
  const broken = [
    "",
    " ",
    "{",
    "nul",
    "'{}'",
    "{}{}",
    `\ufeff${good}`,
    `${good}\0`,
    good.slice(0, -1),
    "// no\n{}",
  ];
  const deep = [33, 1_000, 50_000].flatMap((n) => [
    `${"[".repeat(n)}${"]".repeat(n)}`,
    `${'{"a":'.repeat(n)}1${"}".repeat(n)}`,
    "[".repeat(n),
  ]);
  const keys = ['{"__proto__":{"x":1}}', '{"__proto__":null}', good.replace("{", '{"__proto__":{"x":1},')];
  return fc.constantFrom(...doubled, ...inside, ...broken, ...deep, ...keys, '"\\ud800"', '"\\x"');
};
