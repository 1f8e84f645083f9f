import { expect } from "chai";
import { Agent, request } from "node:http";
import type { IncomingMessage, RequestOptions } from "node:http";
import { connect } from "node:net";
import type { Socket } from "node:net";
import { errorOf, setup, until } from "./serving.ts";

const streamOf = (url: string, headers: Record<string, string> = {}) =>
  new Promise<IncomingMessage>((resolve, reject) => {
    const asked = request(url, { headers: { accept: "text/event-stream", ...headers } }, resolve);
    asked.on("error", reject);
    asked.end();
  });

/** The status of one request and whether the connection ends with it, or how it failed. */
const answerOf = (url: string, options: RequestOptions) =>
  new Promise<string>((resolve) => {
    const asked = request(url, options, (response) => {
      response.resume().once("end", () => {
        const ends = response.headers.connection === "close" ? " close" : "";
        resolve(`${response.statusCode}${ends}`);
      });
    });
    asked.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    asked.end();
  });

/** A connection on which nothing was asked yet, or nothing where nobody listens. */
const opened = (port: number) =>
  new Promise<Socket | undefined>((resolve, reject) => {
    const socket = connect(port, "127.0.0.1", () => resolve(socket));
    socket.on("error", (error: NodeJS.ErrnoException) =>
      error.code === "ECONNREFUSED" ? resolve(undefined) : reject(error),
    );
  });

async function textUntil(response: IncomingMessage, found: (text: string) => boolean): Promise<string> {
  let text = "";
  response.on("data", (chunk: Buffer) => (text += chunk.toString()));
  await until(() => found(text));
  return text;
}

describe("too much work", () => {
  it("is refused with 503 and Retry-After beyond the places there are, and accepted again after", async () => {
    const { server, post, stage } = await setup({ inFlightMax: 2 });
    const held = [post("/api/v1/slow", "{}"), post("/api/v1/slow", "{}")];
    await until(() => stage.slowStarted === 2);
    const refused = await post("/api/v1/slow", "{}");
    expect(refused.headers.get("retry-after")).to.equal("1");
    expect(await errorOf(refused)).to.deep.include({ status: 503, code: "BACKPRESSURE" });
    stage.gate.open();
    expect((await Promise.all(held)).map(({ status }) => status)).to.deep.equal([200, 200]);
    expect((await post("/api/v1/slow", "{}")).status).to.equal(200);
    await server.close();
  });

  it("is cut at the handler's time, and the handler hears of it", async () => {
    const { server, post, stage } = await setup({ handlerTimeoutMs: 30 });
    const late = await errorOf(await post("/api/v1/slow", "{}"));
    expect(late).to.deep.include({ status: 503, code: "DEADLINE_EXCEEDED" });
    expect(stage.slowAborted).to.equal(1);
    stage.gate.open();
    await server.close();
  });
});

describe("a client that goes away", () => {
  it("aborts its handler, and is counted as 499", async () => {
    const { server, stage, logLines, logged, post } = await setup();
    const leaving = new AbortController();
    const gone = fetch(`${server.url}/api/v1/slow`, { method: "POST", signal: leaving.signal }).catch(
      () => "gone",
    );
    await until(() => stage.slowStarted === 1);
    leaving.abort();
    expect(await gone).to.equal("gone");
    await until(() => stage.slowAborted === 1 && logged.length === 1);
    expect(logLines()[0]).to.include({ status: 499, level: "info" });
    stage.gate.open();
    expect((await post("/api/v1/slow", "{}")).status).to.equal(200);
    await server.close();
  });
});

describe("an event stream", () => {
  it("is opened where asked for, sends id, event and one line of data, and resumes by Last-Event-ID", async () => {
    const { server, stage, call } = await setup();
    const plain = await (await call("/api/v1/follow")).json();
    expect(plain).to.have.nested.property("data.page", "whole");
    const response = await streamOf(`${server.url}/api/v1/follow`, { "last-event-id": "41" });
    expect(response.headers["content-type"]).to.include("text/event-stream");
    const text = await textUntil(response, (seen) => seen.includes("41"));
    expect(text).to.include('id: 1\nevent: output\ndata: {"text":"a\\nb","after":"41"}\n\n');
    response.destroy();
    await until(() => stage.streamEnded === 1);
    await server.close();
  });

  it("is kept alive by comments", async () => {
    const { server } = await setup({ streamKeepAliveMs: 10 });
    const response = await streamOf(`${server.url}/api/v1/follow`);
    await textUntil(response, (seen) => seen.split(": keep-alive\n\n").length > 3);
    response.destroy();
    await server.close();
  });

  it("waits for a slow client instead of filling memory, and cuts one that takes nothing", async () => {
    const { server, stage } = await setup({ streamStallMs: 200 });
    const response = await streamOf(`${server.url}/api/v1/follow?flood=true`);
    response.on("error", () => undefined);
    response.pause();
    await until(() => stage.streamEnded === 1, 10_000);
    expect(stage.floodSent).to.be.lessThan(64 * 1024 * 1024);
    response.destroy();
    await server.close();
  });

  it("has its own bound, takes no place of a request, and ends with a hint when the server drains", async () => {
    const { server, stage, post } = await setup({ streamsMax: 1, inFlightMax: 1 });
    const response = await streamOf(`${server.url}/api/v1/follow`);
    const reading = textUntil(response, (seen) => seen.includes(": draining"));
    const second = await streamOf(`${server.url}/api/v1/follow`);
    expect([second.statusCode, second.headers["retry-after"]]).to.deep.equal([503, "1"]);
    second.resume();
    await until(() => server.health().ok);
    stage.gate.open();
    expect((await post("/api/v1/slow", "{}")).status).to.equal(200);
    await server.close();
    expect(await reading).to.match(/retry: 500\n: draining\n\n$/);
    expect(stage.streamEnded).to.equal(1);
  });
});

describe("closing the server", () => {
  it("finishes what is in flight, accepts nothing new, and may be asked twice", async () => {
    const { server, post, stage } = await setup();
    await post("/api/v1/things", JSON.stringify({ name: "keeps a connection alive" }));
    const held = post("/api/v1/slow", "{}");
    await until(() => stage.slowStarted === 1);
    const closing = Promise.all([server.close(), server.close()]);
    expect(server.health().ok).to.equal(false);
    while ((await answerOf(`${server.url}/api/v1/things`, {})) !== "ECONNREFUSED");
    stage.gate.open();
    const answered = await held;
    expect(answered.status).to.equal(200);
    // It asked before; its next request on this connection would meet nobody.
    expect(answered.headers.get("connection")).to.equal("close");
    await closing;
    await server.close();
  });

  it("breaks no request of those who keep their connection and ask again and again", async () => {
    const { server } = await setup();
    const headers = { authorization: "Bearer member" };
    let asked = 0;
    const askers = Array.from({ length: 8 }, async () => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      const seen: string[] = [];
      for (let last = ""; last !== "200 close"; seen.push(last)) {
        last = await answerOf(`${server.url}/api/v1/things/a`, { agent, headers });
        asked += 1;
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
      agent.destroy();
      return seen;
    });
    await until(() => asked > 50);
    await server.close();
    const seen = (await Promise.all(askers)).flat();
    expect([...new Set(seen)].sort()).to.deep.equal(["200", "200 close"]);
  });

  it("answers the late request of a connection that was opened just before nobody listened any more", async () => {
    const { server } = await setup();
    const { port, host } = new URL(server.url);
    const sockets: Socket[] = [];
    const open = async (): Promise<boolean> => {
      const socket = await opened(Number(port));
      if (socket !== undefined) sockets.push(socket);
      return socket !== undefined;
    };
    await open();
    const closing = server.close();
    while (await open()) await new Promise((resolve) => setTimeout(resolve, 5));
    // A client that is slower than the server's own turns.
    await new Promise((resolve) => setTimeout(resolve, 300));
    const last = sockets.findLast((socket) => !socket.destroyed)!;
    for (const socket of sockets) if (socket !== last) socket.destroy();
    let text = "";
    last.on("data", (chunk: Buffer) => (text += chunk.toString()));
    const ended = new Promise((resolve) => last.once("close", resolve));
    last.write(`GET /api/v1/things/a HTTP/1.1\r\nhost: ${host}\r\nauthorization: Bearer member\r\n\r\n`);
    await ended;
    expect(text).to.match(/^HTTP\/1\.1 200 OK\r\n/);
    expect(text.toLowerCase()).to.include("\r\nconnection: close\r\n");
    await closing;
  });

  it("leaves an address in use as an error of opening", async () => {
    const { server } = await setup();
    const { port } = new URL(server.url);
    const second = await import("node:net").then(
      ({ createServer }) =>
        new Promise<string>((resolve) => {
          createServer()
            .once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? ""))
            .listen(Number(port), "127.0.0.1");
        }),
    );
    expect(second).to.equal("EADDRINUSE");
    await server.close();
  });
});
