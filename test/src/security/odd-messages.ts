import { cloudEventsContentType } from "@muster/contracts/envelope";
import { uuidv7 } from "@muster/contracts/ids";

/** A message as a stranger with the broker's password publishes it. */
export interface Odd {
  readonly properties: Readonly<Record<string, unknown>>;
  readonly payload: string;
}

type Fields = Readonly<Record<string, unknown>>;

const envelopeOf = (type: string, data: unknown): Fields => ({
  specversion: "1.0",
  id: uuidv7(),
  source: "/strangers",
  type,
  time: new Date().toISOString(),
  datacontenttype: "application/json",
  data,
});

const structured = (payload: string, more: Fields = {}): Odd => ({
  properties: { message_id: uuidv7(), content_type: cloudEventsContentType, ...more },
  payload,
});

/** An attribute of an envelope that is none, one at a time. */
const attributes: readonly Fields[] = [
  ...[{ id: 1 }, { id: "" }, { id: "i".repeat(129) }, { id: undefined }, { id: null }, { id: ["a"] }],
  ...[{ specversion: "0.3" }, { specversion: 1 }, { source: "" }, { source: { a: 1 } }],
  ...[{ type: "" }, { type: 7 }, { type: undefined }, { type: "t".repeat(256) }],
  ...[{ time: "yesterday" }, { time: "2024-02-30T00:00:00Z" }, { time: 1e300 }, { time: undefined }],
  ...[{ datacontenttype: "application/xml" }, { datacontenttype: undefined }, { subject: "" }],
  ...[{ tenantid: "UPPER" }, { tenantid: "a.b" }, { tenantid: "a".repeat(64) }, { tenantid: "../../x" }],
  ...[{ attempt: 0 }, { attempt: 1_001 }, { attempt: "many" }, { attempt: 1.5 }, { attempt: -1 }],
  ...[{ correlationid: "a b" }, { correlationid: "\0" }, { causationid: "" }, { traceparent: "00-zz" }],
  ...[{ timeoutms: 0 }, { timeoutms: 1e12 }, { timeoutms: "soon" }, { identity: "e".repeat(4_097) }],
  { identity: { admin: true } },
];

/** Messages of this type that are no envelope of ours, each in another way. */
export function badEnvelopes(type: string): Odd[] {
  const good = JSON.stringify(envelopeOf(type, {}));
  const texts = [
    ...[
      "",
      "null",
      "[]",
      '"text"',
      "1",
      good.slice(0, -1),
      `${good}x`,
      `[${good}]`,
      "NaN",
      "{".repeat(50_000),
    ],
    "[".repeat(100_000),
    JSON.stringify({ ...envelopeOf(type, {}), specversion: "2.0", data: "x".repeat(300_000) }),
    `{"__proto__":${good}}`,
  ];
  const header = (name: string, value: unknown) => ({ [`cloudEvents_${name}`]: value });
  const binary = Object.fromEntries(
    Object.entries(envelopeOf(type, undefined)).flatMap(([name, value]) =>
      value === undefined ? [] : Object.entries(header(name, value)),
    ),
  );
  const binaries: readonly Fields[] = [
    ...[
      header("attempt", "NaN"),
      header("attempt", true),
      header("timeoutms", "1e999"),
      header("id", [1, 2]),
    ],
    ...[
      header("id", { nested: { deep: [{}] } }),
      header("type", 9_007_199_254_740_991),
      header("time", false),
    ],
  ];
  return [
    ...attributes.map((wrong) => structured(JSON.stringify({ ...envelopeOf(type, {}), ...wrong }))),
    ...texts.map((text) => structured(text)),
    ...binaries.map((wrong) => ({
      properties: {
        message_id: uuidv7(),
        content_type: "application/json",
        headers: { ...binary, ...wrong },
      },
      payload: "{}",
    })),
  ];
}

/** Messages whose envelope is good and whose payload is not, with every address to answer to that is nobody's. */
export function badPayloads(type: string): Odd[] {
  const now = envelopeOf(type, { nothing: "of ours" });
  const death = {
    count: 9_999,
    reason: "expired",
    queue: "auth.requests",
    exchange: "",
    "routing-keys": ["a"],
  };
  const unheard = [
    {},
    { reply_to: "" },
    { reply_to: "vm-ops.requests" },
    { reply_to: "amq.gen-nobody", correlation_id: "c".repeat(255) },
    { priority: 9, delivery_mode: 1, expiration: "60000", content_encoding: "gzip" },
    { headers: { "x-death": [death], "x-delivery-count": 19 } },
  ];
  const datas = [
    null,
    [],
    "text",
    0,
    { __proto__: null },
    { deep: JSON.parse(`${"[".repeat(900)}${"]".repeat(900)}`) },
  ];
  return [
    ...unheard.map((more) => structured(JSON.stringify({ ...now, id: uuidv7() }), more)),
    ...datas.map((data) => structured(JSON.stringify({ ...now, id: uuidv7(), data }))),
  ];
}
