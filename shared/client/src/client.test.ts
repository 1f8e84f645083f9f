import { MusterError } from "@muster/contracts/errors";
import { expect } from "chai";
import { createClient } from "./client.ts";
import { EventStreamReader } from "./event-stream.ts";
import { retryAfterOf } from "./reply.ts";

const id = "0190a8f0-0000-7000-8000-000000000001";
const principal = { tenant_id: "acme", subject: "user:u", roles: ["owner"], permissions: [] };

type Step = (request: Request) => Response | Promise<Response>;

const ok = (data: unknown, headers: Record<string, string> = {}): Response =>
  Response.json({ success: true, data }, { headers });
const refused = (status: number, code: string, headers: Record<string, string> = {}): Response =>
  Response.json({ success: false, error: { code, message: "no" } }, { status, headers });

/** A client whose requests meet these answers, one after the other. */
function setup(...steps: Step[]) {
  const requests: Request[] = [];
  const waits: number[] = [];
  const client = createClient({
    baseUrl: "http://muster.test/",
    token: () => `token-${requests.length}`,
    attemptsMax: 3,
    random: () => 0.5,
    wait: (ms) => {
      waits.push(ms);
      return Promise.resolve();
    },
    fetch: async (url, init) => {
      const request = new Request(url, init);
      requests.push(request);
      const step = steps[requests.length - 1];
      if (step === undefined) throw new TypeError("fetch failed", { cause: new Error("ECONNREFUSED") });
      return await step(request);
    },
  });
  return { client, requests, waits };
}

async function refusalOf(work: Promise<unknown>): Promise<MusterError> {
  const error: unknown = await work.then(
    () => undefined,
    (refusal: unknown) => refusal,
  );
  if (error instanceof MusterError) return error;
  throw new Error("was not refused", { cause: error });
}

describe("a call", () => {
  it("puts parameters, query, body and the bearer where the route has them", async () => {
    const page = () => Response.json({ success: true, data: { events: [] }, meta: { next_cursor: "n" } });
    const { client, requests } = setup(page);
    const { meta } = await client.listCommandEvents({
      params: { id },
      query: { limit: 5 },
      correlationId: "c",
    });
    expect(meta).to.deep.equal({ next_cursor: "n" });
    expect(requests[0]?.url).to.equal(`http://muster.test/api/v1/vm-ops/commands/${id}/events?limit=5`);
    expect(requests[0]?.headers.get("authorization")).to.equal("Bearer token-0");
    expect(requests[0]?.headers.get("x-correlation-id")).to.equal("c");
  });

  it("becomes a MusterError with the server's code and details", async () => {
    const details = [{ path: "body.vm_uuid", message: "must be a UUID" }];
    const error = { code: "VALIDATION_FAILED", message: "wrong", details };
    const { client, requests } = setup(() => Response.json({ success: false, error }, { status: 400 }));
    const refusal = await refusalOf(client.whoami());
    expect(refusal).to.deep.include({ code: "VALIDATION_FAILED", message: "wrong", details });
    expect(requests).to.have.length(1);
  });

  it("is repeated after the time that the server asked for, with the token of the moment", async () => {
    const { client, requests, waits } = setup(
      () => refused(503, "BACKPRESSURE", { "retry-after": "7" }),
      () => new Response("upstream away", { status: 502 }),
      () => ok(principal),
    );
    expect((await client.whoami()).data.tenant_id).to.equal("acme");
    expect(waits).to.deep.equal([7_100, 200]);
    expect(requests.map(({ headers }) => headers.get("authorization"))).to.deep.equal([
      "Bearer token-0",
      "Bearer token-1",
      "Bearer token-2",
    ]);
  });

  it("that creates is repeated under one key, its own or the caller's", async () => {
    const body = { name: "vm" };
    const own = setup();
    expect((await refusalOf(own.client.registerVm({ body }))).message).to.include("is the gateway running");
    const keys = own.requests.map(({ headers }) => headers.get("idempotency-key"));
    expect(keys).to.have.length(3);
    expect(new Set(keys)).to.have.length(1);
    const given = setup();
    await refusalOf(given.client.registerVm({ body, idempotencyKey: "mine" }));
    expect(given.requests.at(-1)?.headers.get("idempotency-key")).to.equal("mine");
  });

  it("that could repeat its effect is sent once", async () => {
    const { client, requests } = setup(() => refused(503, "DEADLINE_EXCEEDED"));
    await refusalOf(client.cancelCommand({ params: { id }, body: {} }));
    expect(requests).to.have.length(1);
  });

  it("whose reply breaks its contract is refused, not passed on", async () => {
    const { client } = setup(() => ok({ tenant_id: 1 }));
    expect((await refusalOf(client.whoami())).code).to.equal("CONTRACT_VIOLATION");
  });

  it("reads Retry-After as seconds and as a date", () => {
    expect(retryAfterOf("3")).to.equal(3_000);
    expect(retryAfterOf("Thu, 01 Jan 1970 00:00:10 GMT", 4_000)).to.equal(6_000);
    expect(retryAfterOf("soon")).to.equal(undefined);
  });
});

const sse = (text: string): Response =>
  new Response(text, { headers: { "content-type": "text/event-stream" } });
const state = `id: 1.0.0\nevent: state\ndata: {"state":"running","attempt":1,"reason":"claimed"}\n\n`;
const output = (offset: number, text: string): string =>
  `id: 1.${offset + text.length}.0\nevent: output\ndata: ${JSON.stringify({
    attempt: 1,
    stream: "stdout",
    offset,
    data_base64: btoa(text),
    text,
  })}\n\n`;
const end = `event: end\ndata: ${JSON.stringify({
  state: "succeeded",
  attempt: 1,
  reason: "completed",
  effect: "applied",
  exit_code: 0,
  signal: null,
  run_ms: 1,
  error: null,
  output_complete: true,
  totals: null,
})}\n\n`;

describe("a followed command", () => {
  it("goes on after the last event it saw, however the stream breaks", async () => {
    const { client, requests } = setup(
      () => sse(`retry: 1\n\n: hello\n\n${state}${output(0, "ab")}id: 1.9.9\nevent: out`),
      () => refused(503, "DRAINING"),
      () => sse(`event: future\ndata: {}\n\n${output(2, "cd")}${end}`),
    );
    let text = "";
    let exitCode: number | null = null;
    for await (const { event, data } of client.follow(id)) {
      if (event === "output") text += data.text ?? "";
      if (event === "end") exitCode = data.exit_code;
    }
    expect({ text, exitCode }).to.deep.equal({ text: "abcd", exitCode: 0 });
    expect(requests.map(({ headers }) => headers.get("last-event-id"))).to.deep.equal([
      null,
      "1.2.0",
      "1.2.0",
    ]);
  });

  it("that the server refuses for good, or that never brings news, ends with why", async () => {
    const gone = setup(() => refused(404, "COMMAND_NOT_FOUND"));
    expect((await refusalOf(gone.client.follow(id).next())).code).to.equal("COMMAND_NOT_FOUND");
    const mute = setup(...Array.from({ length: 5 }, () => () => sse("")));
    expect((await refusalOf(mute.client.follow(id).next())).code).to.equal("DEPENDENCY_UNAVAILABLE");
    expect(mute.requests).to.have.length(3);
  });
});

describe("an event stream", () => {
  it("is read the same whole and byte by byte, whatever its line ends", () => {
    const text = `: c\r\nretry: 30\r\nid: 1\r\nevent: a\r\ndata: é\r\ndata: 2\r\n\r\ndata:x\n\nid: 2\n\n`;
    const bytes = new TextEncoder().encode(text);
    const whole = new EventStreamReader();
    const events = whole.push(bytes);
    const slow = new EventStreamReader();
    expect([...bytes].flatMap((byte) => slow.push(Uint8Array.of(byte)))).to.deep.equal(events);
    expect(events).to.deep.equal([
      { event: "a", data: "é\n2", id: "1" },
      { event: "message", data: "x", id: "1" },
    ]);
    expect(whole.retryMs).to.equal(30);
  });
});
