import { uuidv7 } from "@muster/contracts/ids";
import { pathParameters, type Route } from "@muster/contracts/route";
import { wireSchemaOf } from "@muster/contracts/schema";
import { samplesOf } from "@muster/testing/samples";
import fc from "fast-check";
import type { z } from "zod";
import {
  changedAt,
  edgesOf,
  nearMissesOf,
  oddJsonTexts,
  oddLeaves,
  oddTexts,
  oddTimes,
  pathsOf as placesIn,
} from "./odd.ts";
import type { Sent } from "./sending.ts";
import { referencesOf } from "./things.ts";

/** Real things by collection, some of each. */
export type Pools = Readonly<Record<string, readonly string[]>>;

/** One request and, where it was sent as JSON that can be parsed, what it said. */
export interface Trial {
  readonly sent: Sent;
  /** The text of the body, where its type and its path leave no doubt that it is looked at. */
  readonly looked: string | undefined;
}

const id = "0190aaaa-0000-7000-8000-000000000000";
const oddSegments = [
  ...["%00", `${id}%00`, "%ff", "%", "%zz", "%c0%af", "%ed%a0%80", "%f0%9f%98%80", "%e2%80%ae"],
  ...["..", ".", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc", "%252e%252e", "%2f", "%5c", "a;b=c", "a%20b", "*", "~"],
  ...["null", "undefined", "NaN", "-1", "1e999", "__proto__", "constructor", "{id}", "[]"],
  ...[id.toUpperCase(), `${id}-`, ` ${id}`.trim().slice(1), "0".repeat(300), "9".repeat(7_000)],
];

/** Halves of surrogate pairs have no encoding. */
const encoded = (text: string): string => encodeURIComponent(text.replaceAll(/\p{Cs}/gu, "\ufffd"));
const oddQueryValues = [
  ...[...oddTexts, ...oddTimes].map(encoded),
  ...[
    "%",
    "%ff",
    "%ed%a0%80",
    "%c0%80",
    "+",
    "a=b",
    "a&b=c",
    "1&limit=2",
    "1,,2",
    ",",
    "=",
    "role=%00",
    "role=a,",
  ],
  ...["0", "-1", "201", "1e2", "0x10", "1.0", "%201", "9".repeat(30), "true", "NaN", "x".repeat(3_000)],
];

/** Cursors as listings give them, with what is in them changed. */
function forgedCursors(real: readonly string[]): string[] {
  const texts = real.map((cursor) => Buffer.from(cursor, "base64url").toString("utf8"));
  const numbers = ["1e300", "-1", "0.5", "99999999999999999999", "null", '"x"'];
  const places = ["{}", "[]", "null", '{"id":null}', `{"id":"${id}\\u0000"}`, "\0", id];
  const changed = texts.flatMap((text) => numbers.map((number) => text.replaceAll(/(?<=:)\d+/g, number)));
  return [...real, ...[...places, ...changed].map((text) => Buffer.from(text).toString("base64url"))];
}

function pathsOf(route: Route, pools: Pools): fc.Arbitrary<string> {
  const references = referencesOf(route);
  const segments = pathParameters(route.path).map((field) => {
    const of = references.find((one) => one.where === "params" && one.field === field)?.of ?? "";
    const real = pools[of] ?? [];
    return fc.oneof(
      { weight: 4, arbitrary: real.length === 0 ? fc.constant(id) : fc.constantFrom(...real) },
      { weight: 1, arbitrary: fc.constantFrom(uuidv7(), ...oddSegments) },
    );
  });
  const path = fc.tuple(...segments).map((values) => {
    let n = 0;
    return route.path.replaceAll(/\{[^}]+\}/g, () => values[n++] ?? "");
  });
  const tricks = path.chain((one) =>
    fc.constantFrom(
      ...[`/${one}`, `${one}/`, one.replace("/api/", "/api/./"), one.replace("/v1/", "/v1/x/../")],
      ...[
        one.replace("/api", "/%61pi"),
        one.toUpperCase(),
        `${one}%00`,
        `${one}%2f..`,
        `${one}#x`,
        `${one};a=b`,
      ],
      ...[`http://evil.example${one}`, one.replace("/v1/", "/v1//"), `${one}/../../../../etc/passwd`],
    ),
  );
  return fc.oneof({ weight: 12, arbitrary: path }, { weight: 1, arbitrary: tricks });
}

function queriesOf(route: Route, pools: Pools): fc.Arbitrary<string> {
  const fields = Object.keys(route.query?.shape ?? {});
  const names = fc.constantFrom(...fields, ...fields, "__proto__", "a[b]", "constructor", "limit", "%ff", "");
  const cursors = forgedCursors(pools[`cursors ${route.path}`] ?? []).map(encoded);
  const pair = names.chain((name) =>
    fc.constantFrom(...(name === "cursor" ? cursors : oddQueryValues)).map((value) => `${name}=${value}`),
  );
  const many = fc.constantFrom(101, 2_000).map((n) => Array.from({ length: n }, () => "a=1").join("&"));
  const some = fc.array(pair, { minLength: 1, maxLength: 3 }).map((pairs) => pairs.join("&"));
  const none = { weight: fields.length === 0 ? 20 : 2, arbitrary: fc.constant("") };
  return fc.oneof(none, { weight: 10, arbitrary: some }, { weight: 1, arbitrary: many });
}

const oddTypes = [
  ...[
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonp",
  ],
  ...["application/json; charset=utf-16", "application/json;charset=UTF-8", "APPLICATION/JSON", "json", ""],
  ...["application/json, text/plain", "application/json; charset=utf-8; charset=latin1", "*/*"],
];
const oddHeaders: readonly NonNullable<Sent["headers"]>[] = [
  { "idempotency-key": "" },
  { "idempotency-key": "x".repeat(256) },
  { "idempotency-key": '"' },
  { "idempotency-key": "k ey" },
  { "idempotency-key": "\\'\"; --" },
  { "x-request-id": "x".repeat(500), "x-correlation-id": "a b", traceparent: "00-zz" },
  { traceparent: `00-${"0".repeat(32)}-${"0".repeat(16)}-00`, tracestate: "x".repeat(1_000) },
  { "content-encoding": "gzip" },
  { accept: "text/event-stream, */*;q=0", "last-event-id": "NaN.1e9.-1" },
  { "x-filler": "x".repeat(17_000) },
  { cookie: "a=b;".repeat(500), "x-forwarded-for": "1.2.3.4", "x-http-method-override": "DELETE" },
];
const oddMethods = ["HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "PROPFIND"];

type Body = Pick<Trial, "looked"> & { readonly body: string | Buffer; readonly type: string };

function bodiesOf(route: Route): fc.Arbitrary<Body> {
  const schema = wireSchemaOf(route.body!);
  const type = "application/json";
  const said = (text: string): Body => ({ body: text, type, looked: text });
  const good = edgesOf(schema).map((value) => JSON.stringify(value));
  const over = route.bodyBytesMax + 1;
  return fc.oneof(
    { weight: 8, arbitrary: good.map(said) },
    { weight: 8, arbitrary: nearMissesOf(schema).map((value) => said(JSON.stringify(value))) },
    { weight: 4, arbitrary: good.chain(oddJsonTexts).map(said) },
    {
      weight: 2,
      arbitrary: fc
        .tuple(good, fc.constantFrom(...oddTypes))
        .map(([body, odd]) => ({ body, type: odd, looked: undefined })),
    },
    {
      weight: 1,
      arbitrary: fc
        .constantFrom<string | Buffer>(
          Buffer.from([0xff, 0xfe, 0x7b]),
          Buffer.from('{"a":"\xff"}', "latin1"),
          "x".repeat(over),
          `"${"x".repeat(over)}"`,
        )
        .map((body) => ({ body, type, looked: undefined })),
    },
  );
}

/** Requests of one route, from nearly good to nonsense. */
export function trialsOf(
  route: Route,
  pools: Pools,
  headers: NonNullable<Sent["headers"]>,
): fc.Arbitrary<Trial> {
  const methods = fc.oneof(
    { weight: 25, arbitrary: fc.constant<string>(route.method) },
    { weight: 1, arbitrary: fc.constantFrom(...oddMethods) },
  );
  const more = fc.oneof(
    { weight: 10, arbitrary: fc.constant({}) },
    { weight: 1, arbitrary: fc.constantFrom(...oddHeaders) },
  );
  const unasked = fc.constantFrom<Body | undefined>(undefined, undefined, undefined, {
    ...{ body: '{"unasked":1}', type: "application/json", looked: undefined },
  });
  const bodies = route.body === undefined ? unasked : bodiesOf(route);
  return fc
    .record({ method: methods, path: pathsOf(route, pools), query: queriesOf(route, pools), more, bodies })
    .map(({ method, path, query, more: extra, bodies: body }) => {
      const typed = body === undefined ? {} : { "content-type": body.type };
      const sent = {
        method,
        path: query === "" ? path : `${path}?${query}`,
        headers: { ...headers, ...typed, ...extra },
        ...(body === undefined ? {} : { body: body.body }),
      };
      const plain = method === route.method && query === "" && Object.keys(extra).length === 0;
      return { sent, looked: plain ? body?.looked : undefined };
    });
}

/** Requests in which one field after the other is odd, and all else is good. */
export function sweepOf(route: Route, pools: Pools, headers: NonNullable<Sent["headers"]>): Trial[] {
  const references = referencesOf(route);
  let turn = 0;
  const good = (): string => {
    turn += 1;
    return route.path.replaceAll(/\{([^}]+)\}/g, (_all, field: string) => {
      const of = references.find((one) => one.where === "params" && one.field === field)?.of ?? "";
      const real = pools[of] ?? [];
      return real[turn % real.length] ?? uuidv7();
    });
  };
  const fields = Object.keys(route.query?.shape ?? {});
  const cursors = forgedCursors(pools[`cursors ${route.path}`] ?? []).map(encoded);
  const queries = fields.flatMap((field) =>
    (field === "cursor" ? [...cursors, ...oddQueryValues] : oddQueryValues).map(
      (value) => `${field}=${value}`,
    ),
  );
  const { method } = route;
  const asked = queries.map((query) => ({
    sent: { method, path: `${good()}?${query}`, headers },
    looked: undefined,
  }));
  if (route.body === undefined) return asked;
  const typed = { ...headers, "content-type": "application/json" };
  const full = fullest(route.body);
  const changed = placesIn(full).flatMap((place) => oddLeaves.map((leaf) => changedAt(full, place, leaf)));
  const said = changed.map((value) => {
    const body = JSON.stringify(value);
    const key = route.idempotencyKey ? { "idempotency-key": uuidv7() } : {};
    return { sent: { method, path: good(), headers: { ...typed, ...key }, body }, looked: body };
  });
  return [...asked, ...said];
}

/** The sample with the most in it. */
function fullest(schema: z.ZodType): unknown {
  const samples = fc.sample(samplesOf(wireSchemaOf(schema)), { numRuns: 100, seed: 3 });
  const fitting = samples.filter((sample) => schema.safeParse(sample).success);
  return fitting.sort((a, b) => placesIn(b).length - placesIn(a).length)[0];
}
