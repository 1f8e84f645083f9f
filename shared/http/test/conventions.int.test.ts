import { expect } from "chai";
import { connect } from "node:net";
import { errorOf, setup, until } from "./serving.ts";

const good = JSON.stringify({ name: "a" });

describe("a successful answer", () => {
  it("wraps data, with the route's status, defaults filled in, and the handler's headers", async () => {
    const { server, post } = await setup();
    const response = await post("/api/v1/things", good);
    expect(response.status).to.equal(201);
    expect(response.headers.get("location")).to.equal("/api/v1/things/1");
    expect(await response.json()).to.deep.equal({
      success: true,
      data: { name: "a", count: 1, idempotency_key: null },
    });
    await server.close();
  });

  it("carries the cursor in meta, reads query lists and defaults, and prefers fixed paths to parameters", async () => {
    const { server, call } = await setup();
    const list = await (await call("/api/v1/things?state=a&limit=7")).json();
    expect(list).to.deep.equal({
      success: true,
      data: { limit: 7, states: ["a"] },
      meta: { next_cursor: null },
    });
    const both = await (await call("/api/v1/things?state=a&state=b")).json();
    expect(both).to.have.nested.property("data.states.length", 2);
    expect(await (await call("/api/v1/things/summary")).json()).to.have.nested.property(
      "data.principal",
      null,
    );
    await server.close();
  });

  it("without a body is 204; HEAD is GET without the body; OPTIONS names the methods", async () => {
    const { server, call } = await setup();
    const removed = await call("/api/v1/things/x", {
      method: "DELETE",
      headers: { authorization: "Bearer owner" },
    });
    expect([removed.status, await removed.text()]).to.deep.equal([204, ""]);
    const head = await call("/api/v1/things/x", { method: "HEAD" });
    expect([head.status, await head.text()]).to.deep.equal([200, ""]);
    expect(Number(head.headers.get("content-length"))).to.be.greaterThan(10);
    const options = await call("/api/v1/things/x", { method: "OPTIONS" });
    expect([options.status, options.headers.get("allow")]).to.deep.equal([204, "GET, DELETE, HEAD, OPTIONS"]);
    await server.close();
  });

  it("has the security headers, and no name of the framework", async () => {
    const { server, call } = await setup();
    const { headers } = await call("/api/v1/things");
    expect(headers.get("x-content-type-options")).to.equal("nosniff");
    expect(headers.get("cache-control")).to.equal("no-store");
    expect(headers.get("content-security-policy")).to.include("default-src 'none'");
    expect(headers.get("x-powered-by")).to.equal(null);
    await server.close();
  });
});

describe("request ids and trace context", () => {
  it("are accepted, handed to the handler and echoed", async () => {
    const { server, call } = await setup();
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const headers = { "x-request-id": "r-1", "x-correlation-id": "c-1", traceparent };
    const response = await call("/api/v1/things/x", { headers });
    expect(response.headers.get("x-request-id")).to.equal("r-1");
    expect(response.headers.get("x-correlation-id")).to.equal("c-1");
    expect(response.headers.get("traceparent")).to.match(
      /^00-0af7651916cd43dd8448eb211c80319c-[0-9a-f]{16}-01$/,
    );
    expect(await response.json()).to.deep.include({
      data: { id: "x", tenant: "acme", correlation: "c-1", identity: "token-of-member" },
    });
    await server.close();
  });

  it("are made where missing or malformed, on refusals too", async () => {
    const { server, call } = await setup();
    const headers = { "x-request-id": "a b", "x-correlation-id": "x".repeat(200), traceparent: "00-zz" };
    const response = await call("/nowhere", { headers });
    const id = response.headers.get("x-request-id");
    expect(id).to.match(/^[0-9a-f-]{36}$/);
    expect(response.headers.get("x-correlation-id")).to.equal(id);
    expect(response.headers.get("traceparent")).to.match(/^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
    await server.close();
  });
});

describe("a refusal", () => {
  it("names every fault by path, unknown fields too", async () => {
    const { server, post, call } = await setup();
    const body = JSON.stringify({ count: 99, extra: 1, inner: { args: ["a", 2], more: true } });
    const refused = await errorOf(await post("/api/v1/things", body));
    expect(refused).to.deep.include({ status: 400, code: "VALIDATION_FAILED" });
    expect(refused.paths).to.have.members([
      "body.name",
      "body.count",
      "body.inner.args[1]",
      "body.inner.more",
      "body.extra",
    ]);
    const query = await errorOf(await call("/api/v1/things?limit=0&state=c&odd=1"));
    expect(query.paths).to.have.members(["query.limit", "query.state[0]", "query.odd"]);
    expect((await errorOf(await call("/api/v1/things/NO"))).paths).to.deep.equal(["params.thing_id"]);
    expect((await errorOf(await call("/api/v1/things/summary?x=1"))).paths).to.deep.equal(["query.x"]);
    expect(await errorOf(await call("/api/v1/things/%ff"))).to.deep.include({
      status: 400,
      paths: ["params"],
    });
    await server.close();
  });

  it("tells bad JSON, wrong media types, charsets and encodings, and depth apart", async () => {
    const { server, post } = await setup();
    const codeOf = async (response: Response) => (await errorOf(response)).code;
    for (const bad of ["{", "nul", '{"a":1,}', "\u0000", '{"name":"secret']) {
      const response = await post("/api/v1/things", bad);
      const text = await response.clone().text();
      expect(await errorOf(response)).to.deep.include({ status: 400, code: "BAD_JSON", paths: ["body"] });
      expect(text).to.not.include("secret");
    }
    const odd = ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", ""];
    for (const type of odd) {
      const response = await post("/api/v1/things", good, { "content-type": type });
      expect(await errorOf(response)).to.deep.include({ status: 415, code: "UNSUPPORTED_MEDIA_TYPE" });
    }
    const packed = await post("/api/v1/things", good, { "content-encoding": "gzip" });
    expect(packed.status).to.equal(415);
    expect(
      (await post("/api/v1/things", good, { "content-type": "application/json; charset=UTF-8" })).status,
    ).to.equal(201);
    const deep = `{"name":${"[".repeat(40)}${"]".repeat(40)}}`;
    expect(await errorOf(await post("/api/v1/things", deep))).to.deep.include({ code: "VALIDATION_FAILED" });
    const brackets = JSON.stringify({ name: '[[{"\\'.repeat(16) });
    expect((await post("/api/v1/things", brackets)).status).to.equal(201);
    expect(await codeOf(await post("/api/v1/things", "[]"))).to.equal("VALIDATION_FAILED");
    await server.close();
  });

  it("of a body beyond the limit is 413, announced or not, and the connection lives on", async () => {
    const { server, post, call } = await setup();
    const large = JSON.stringify({ name: "x".repeat(70_000) });
    expect(await errorOf(await post("/api/v1/things", large))).to.deep.include({
      status: 413,
      code: "BODY_TOO_LARGE",
    });
    const chunked = new ReadableStream<Uint8Array>({
      start(controller) {
        for (let i = 0; i < 10; i++) controller.enqueue(new TextEncoder().encode("x".repeat(10_000)));
        controller.close();
      },
    });
    const streamed = await call("/api/v1/things", {
      method: "POST",
      body: chunked,
      duplex: "half",
      headers: { "content-type": "application/json" },
    });
    expect(streamed.status).to.equal(413);
    expect((await post("/api/v1/things", good)).status).to.equal(201);
    await server.close();
  });

  it("tells an unknown path from a known one with another method", async () => {
    const { server, call } = await setup();
    for (const path of ["/", "/api/v1/nothing", "/api/v1/things/", "/API/v1/things", "/api/v1/things/a/b"]) {
      expect(await errorOf(await call(path)), path).to.deep.include({ status: 404, code: "ROUTE_NOT_FOUND" });
    }
    const patch = await call("/api/v1/things/x", { method: "PATCH" });
    expect(patch.headers.get("allow")).to.equal("GET, DELETE, HEAD, OPTIONS");
    expect(await errorOf(patch)).to.deep.include({ status: 405, code: "METHOD_NOT_ALLOWED" });
    await server.close();
  });

  it("of identity comes before any look at the request, and names the missing role", async () => {
    const { server, call, post } = await setup();
    const missing = await fetch(`${server.url}/api/v1/things`, { method: "POST", body: "{" });
    expect(missing.headers.get("www-authenticate")).to.include("Bearer");
    expect(await errorOf(missing)).to.deep.include({ status: 401, code: "MISSING_BEARER_TOKEN" });
    for (const authorization of ["Bearer nobody", "Basic YTpi", "Bearer", "member"]) {
      const refused = await errorOf(await post("/api/v1/things", "{", { authorization }));
      expect(refused.code, authorization).to.equal("INVALID_OR_MISSING_BEARER_TOKEN");
    }
    const response = await call("/api/v1/things/x", {
      method: "DELETE",
      headers: { authorization: "Bearer admin" },
    });
    expect(await response.clone().text()).to.include("role owner is needed");
    expect(await errorOf(response)).to.deep.include({
      status: 403,
      code: "FORBIDDEN",
      paths: ["principal.roles"],
    });
    await server.close();
  });

  it("gives Retry-After in whole seconds, and never the inside of a failure", async () => {
    const { server, call, logged } = await setup();
    const limited = await call("/api/v1/fail?how=limited");
    expect([limited.status, limited.headers.get("retry-after")]).to.deep.equal([429, "3"]);
    const failed = await call("/api/v1/fail?how=badly");
    const text = await failed.text();
    expect([failed.status, text.includes("INTERNAL"), text.includes("inner")]).to.deep.equal([
      500,
      true,
      false,
    ]);
    await until(() => logged.join("").includes("secret inner detail"));
    await server.close();
  });
});

describe("Idempotency-Key", () => {
  it("is taken bare or quoted, on creation only, and never required", async () => {
    const { server, post, call } = await setup();
    const keyOf = async (key: string) => {
      const response = await post("/api/v1/things", good, { "idempotency-key": key });
      return ((await response.json()) as { data: { idempotency_key: string } }).data.idempotency_key;
    };
    expect(await keyOf("8e03978e-40d5")).to.equal("8e03978e-40d5");
    expect(await keyOf('"8e03978e-40d5"')).to.equal("8e03978e-40d5");
    expect(await keyOf('"a\\"b\\\\c"')).to.equal('a"b\\c');
    expect((await call("/api/v1/things", { headers: { "idempotency-key": "a b" } })).status).to.equal(200);
    await server.close();
  });

  it("is refused when empty, too long, half quoted or not visible ASCII", async () => {
    const { server, post } = await setup();
    for (const key of ["", '""', "a b", "x".repeat(256), '"abc', "\u00e9", "a, b"]) {
      const refused = await errorOf(await post("/api/v1/things", good, { "idempotency-key": key }));
      expect(refused, key).to.deep.include({
        code: "IDEMPOTENCY_KEY_INVALID",
        paths: ["header.idempotency-key"],
      });
    }
    await server.close();
  });
});

describe("the reference", () => {
  it("is served as OpenAPI and as a page that needs nothing from elsewhere and escapes what it shows", async () => {
    const { server } = await setup();
    const openapi = await (await fetch(`${server.url}/api/v1/openapi.json`)).json();
    expect(openapi).to.have.property("openapi", "3.1.0");
    const response = await fetch(`${server.url}/docs`);
    const html = await response.text();
    expect(response.headers.get("content-type")).to.include("text/html");
    expect(html)
      .to.include("/api/v1/things/{thing_id}")
      .and.include("role owner")
      .and.include("width=device-width");
    expect(html).to.include("Things &lt;&amp;&gt;").and.include("A route &lt;of&gt; the test.");
    expect(html).to.not.match(/<script|<link|src=|@import|url\(|https?:\/\//);
    expect((await fetch(`${server.url}/docs`, { method: "POST" })).status).to.equal(405);
    await server.close();
  });
});

describe("what the server writes down", () => {
  it("is one line per request, with ids and tenant, without bodies, tokens or queries", async () => {
    const { server, post, logLines, logged } = await setup();
    await post("/api/v1/things?x=canary", JSON.stringify({ name: "canary" }), { "x-correlation-id": "c-9" });
    await post("/api/v1/things", JSON.stringify({ name: "canary" }), { authorization: "Bearer owner" });
    await until(() => logged.length === 2);
    const [refused, accepted] = logLines();
    expect(refused).to.include({ status: 400, code: "VALIDATION_FAILED", correlation_id: "c-9" });
    expect(accepted).to.include({ method: "POST", route: "/api/v1/things", status: 201, tenant_id: "acme" });
    expect(accepted).to.include.keys("took_ms", "request_id", "trace_id");
    expect(logged.join("")).to.not.match(/canary|token-of/);
    await server.close();
  });

  it("counts by method, route and status, with paths never as labels", async () => {
    const { server, call, metrics } = await setup();
    await call("/api/v1/things/one");
    await call("/api/v1/things/two");
    await call("/api/v1/nowhere/three");
    const text = await metrics.registry.metrics();
    expect(text).to.match(
      /requests_total\{method="GET",route="\/api\/v1\/things\/\{thing_id\}",status="200".*\} 2/,
    );
    expect(text).to.match(/requests_total\{method="GET",route="unmatched",status="404".*\} 1/);
    expect(text).to.match(/muster_http_request_seconds_count\{.*\} 2/);
    expect(text).to.not.match(/things\/one|nowhere/);
    await server.close();
  });
});

describe("bytes that are no request", () => {
  const exchange = (url: string, text: string) =>
    new Promise<string>((resolve) => {
      const { hostname, port } = new URL(url);
      let answer = "";
      const socket = connect(Number(port), hostname, () => socket.write(text));
      socket.on("data", (chunk) => (answer += chunk.toString()));
      socket.on("close", () => resolve(answer));
      socket.on("error", () => socket.destroy());
    });

  it("are answered with a code: no HTTP, headers too large, headers or body too slow", async () => {
    const { server } = await setup({ headersTimeoutMs: 50, requestTimeoutMs: 100, connectionsCheckMs: 20 });
    const start = "GET /api/v1/things HTTP/1.1\r\nhost: x\r\n";
    expect(await exchange(server.url, "nonsense\r\n\r\n")).to.match(/^HTTP\/1.1 400 [^]*VALIDATION_FAILED/);
    expect(await exchange(server.url, `${start}x: ${"y".repeat(40_000)}\r\n\r\n`)).to.match(
      /^HTTP\/1.1 431 /,
    );
    expect(await exchange(server.url, start)).to.match(/^HTTP\/1.1 408 [^]*did not arrive in time/);
    const half =
      "POST /api/v1/slow HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    expect(await exchange(server.url, half)).to.match(/^HTTP\/1.1 408 /);
    await server.close();
  });
});
