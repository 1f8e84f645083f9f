import { errorCodes } from "@muster/contracts/errors";
import { expect } from "chai";
import fc from "fast-check";
import { request } from "node:http";
import { failure, setup } from "./serving.ts";

/** Whatever is sent: an answer below 500, and when refused a known code with a path. */
async function expectOrderly(response: Response, what: string): Promise<void> {
  expect(response.status, what).to.be.lessThan(500);
  if (response.status < 400) return;
  const { error } = failure.parse(await response.json());
  expect(errorCodes, what).to.have.property(error.code);
  if (response.status === 400) expect(error.details?.[0]?.path, what).to.be.a("string").and.not.equal("");
}

const oddText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 50 }),
  fc.constantFrom("__proto__", "constructor", "\u0000", "\ud800", "‮", "e\u0301", "NaN", "-0", "1e999"),
);
const oddValue = fc.jsonValue({ maxDepth: 6 });
const nearlyGood = fc.record(
  {
    name: fc.oneof(fc.string(), oddValue),
    count: fc.oneof(fc.integer(), fc.double(), oddValue),
    tags: fc.oneof(fc.dictionary(oddText, oddText), oddValue),
    inner: fc.oneof(fc.record({ args: fc.array(fc.string()) }), oddValue),
  },
  { requiredKeys: [] },
);
const bodies = fc.oneof(
  nearlyGood.map((value) => JSON.stringify(value)),
  fc.dictionary(oddText, oddValue).map((value) => JSON.stringify(value)),
  oddText,
  fc.integer({ min: 0, max: 500 }).map((depth) => `{"name":${"[".repeat(depth)}${"]".repeat(depth)}}`),
  fc.integer({ min: 0, max: 90_000 }).map((size) => JSON.stringify({ name: "x".repeat(size) })),
  fc.constantFrom('{"__proto__":{"x":1},"name":"a"}', '{"name":"a","name":1}', "[]", "null", "1", '"', "{}"),
);

/** Sends headers that fetch would refuse to send. */
function plainPost(url: string, body: string, headers: Record<string, string>): Promise<Response> {
  return new Promise((resolve, reject) => {
    const asked = request(url, { method: "POST", headers }, (answer) => {
      let text = "";
      answer.on("data", (chunk: Buffer) => (text += chunk.toString()));
      answer.on("end", () => resolve(new Response(text, { status: answer.statusCode ?? 0 })));
    });
    asked.on("error", reject);
    asked.end(body);
  });
}

describe("generated requests", function () {
  this.timeout(60_000);

  it("never fail the server: every body is accepted or refused with a code and a path", async () => {
    const { server, post } = await setup();
    await fc.assert(
      fc.asyncProperty(bodies, async (body) => {
        await expectOrderly(await post("/api/v1/things", body), body.slice(0, 200));
      }),
      { numRuns: 400 },
    );
    await server.close();
  });

  it("never fail the server: every path and query is answered or refused with a code", async () => {
    const { server, call } = await setup();
    const piece = fc.oneof(
      oddText.map((text) => encodeURIComponent(Buffer.from(text).toString())),
      fc.constantFrom("%ff", "%", "%00", "..", ".", "//", "a;b", "%2e%2e%2f", "limit", "state"),
    );
    const queries = fc.array(fc.tuple(piece, piece), { maxLength: 5 });
    await fc.assert(
      fc.asyncProperty(piece, queries, async (id, pairs) => {
        const query = pairs.map(([name, value]) => `${name}=${value}`).join("&");
        for (const path of [`/api/v1/things/${id}?${query}`, `/api/v1/things?${query}`, `/${id}?${query}`]) {
          await expectOrderly(await call(path), path);
        }
      }),
      { numRuns: 200 },
    );
    await server.close();
  });

  it("never fail the server: every header that HTTP allows", async () => {
    const { server } = await setup();
    const url = `${server.url}/api/v1/things`;
    const value = fc.string({
      unit: fc
        .integer({ min: 0x20, max: 0xff })
        .map((code) => String.fromCharCode(code === 0x7f ? 0x20 : code)),
    });
    const names = [
      "authorization",
      "idempotency-key",
      "x-request-id",
      "traceparent",
      "content-type",
      "accept",
    ];
    await fc.assert(
      fc.asyncProperty(fc.dictionary(fc.constantFrom(...names), value), async (headers) => {
        await expectOrderly(await plainPost(url, '{"name":"a"}', headers), JSON.stringify(headers));
      }),
      { numRuns: 200 },
    );
    await server.close();
  });
});
