import { MusterError } from "@muster/contracts/errors";
import type { Route } from "@muster/contracts/route";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import express from "express";
import type { NextFunction, Request, Response } from "express";
import { createServer } from "node:http";
import type { Server } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { trustedProxies } from "./client-address.ts";
import type { TrustedProxies } from "./client-address.ts";
import { docsHtml, docsPolicy } from "./docs.ts";
import type { Authenticate, Handlers, RouteHandler } from "./handler.ts";
import { httpLimits } from "./limits.ts";
import type { HttpLimits } from "./limits.ts";
import { Front } from "./front.ts";
import { errorBody, sendText } from "./reply.ts";
import { compileRoute } from "./routing.ts";
import type { CompiledRoute, Streams } from "./routing.ts";

export interface HttpServerOptions<Rs extends Readonly<Record<string, Route>>> {
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  readonly routes: Rs;
  readonly handlers: Handlers<Rs>;
  readonly authenticate: Authenticate;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** Served at /api/v1/openapi.json and rendered at /docs. */
  readonly openapi: Readonly<Record<string, unknown>>;
  /** Other public pages by path, outside the API's conventions: well-known URIs. */
  readonly documents?: Readonly<Record<string, () => Promise<PublicDocument>>>;
  readonly limits?: Partial<HttpLimits>;
  /** Whose word on the client's address is taken; nobody's by default. */
  readonly trusted?: TrustedProxies;
}

export interface PublicDocument {
  readonly type: string;
  readonly text: string;
  readonly cacheControl: string;
  /** Content security policy, where nothing at all is too little. */
  readonly policy?: string;
}

export interface HttpServer {
  readonly url: string;
  health(): { ok: boolean; reason?: string; detail?: unknown };
  /**
   * Ends streams with a hint to reconnect, answers with `connection: close` for a second while anybody is connected, then
   * stops accepting and waits for what is in flight. Idempotent.
   */
  close(): Promise<void>;
}

export async function openHttpServer<Rs extends Readonly<Record<string, Route>>>(
  o: HttpServerOptions<Rs>,
): Promise<HttpServer> {
  const limits: HttpLimits = { ...httpLimits, ...o.limits };
  const streams: Streams = { open: new Set() };
  const front = new Front({ logger: o.logger, metrics: o.metrics, limits, streams });
  const server = createServer(
    {
      maxHeaderSize: limits.headersBytesMax,
      headersTimeout: limits.headersTimeoutMs,
      requestTimeout: limits.requestTimeoutMs,
      connectionsCheckingInterval: limits.connectionsCheckMs,
      keepAliveTimeout: limits.keepAliveTimeoutMs,
      // A header that may come once and came twice is no value at all; Node would take the first and hide the other.
      joinDuplicateHeaders: true,
    },
    application(o, front, limits, streams),
  );
  server.maxConnections = limits.connectionsMax;
  server.on("clientError", answerBrokenRequest);
  const sockets = new Map<Socket, number>();
  server.on("connection", (socket) => {
    sockets.set(socket, performance.now());
    socket.once("close", () => sockets.delete(socket));
  });
  await listening(server, o.host, o.port);
  const address = server.address() as AddressInfo;
  const host = address.family === "IPv6" ? `[${address.address}]` : address.address;
  let closing: Promise<void> | undefined;
  return {
    url: `http://${host}:${address.port}`,
    health: () =>
      server.listening && !front.draining
        ? { ok: true, detail: { in_flight: front.inFlight, streams: streams.open.size } }
        : { ok: false, reason: "not listening" },
    close: () => (closing ??= drain(server, sockets, front, streams)),
  };
}

function application<Rs extends Readonly<Record<string, Route>>>(
  o: HttpServerOptions<Rs>,
  front: Front,
  limits: HttpLimits,
  streams: Streams,
): express.Express {
  const app = express();
  app.disable("x-powered-by").disable("etag").set("query parser", false);
  app.enable("case sensitive routing").enable("strict routing");
  app.use((request, response, next) => front.enter(request, response, next));

  const { authenticate, trusted = trustedProxies([]) } = o;
  const byPath = new Map<string, Map<string, CompiledRoute>>();
  for (const [key, route] of Object.entries(o.routes) as [keyof Rs & string, Route][]) {
    const handler = o.handlers[key] as unknown as RouteHandler<Route>;
    const methods = byPath.get(route.path) ?? new Map<string, CompiledRoute>();
    if (methods.has(route.method)) throw new Error(`two routes declare ${route.method} ${route.path}`);
    methods.set(route.method, compileRoute(route, handler, { authenticate, limits, streams, trusted }));
    byPath.set(route.path, methods);
  }
  for (const [path, page] of Object.entries(pagesOf(o))) {
    if (byPath.has(path)) throw new Error(`${path} is both a route and a page`);
    app.all(path, (request: Request, response: Response) => {
      front.matched(response, path);
      if (request.method !== "GET" && request.method !== "HEAD") {
        return front.refuseMethod(request, response, ["GET"]);
      }
      return front.run(response, async () => {
        const { type, text, cacheControl, policy } = await page();
        response.setHeader("cache-control", cacheControl);
        if (policy !== undefined) response.setHeader("content-security-policy", policy);
        sendText(response, 200, type, text);
      });
    });
  }
  // Fixed segments before parameters, so that /vms/summary is never read as a VM's id.
  const paths = [...byPath.entries()].sort(([a], [b]) => (sortKey(a) < sortKey(b) ? -1 : 1));
  for (const [path, methods] of paths) {
    app.all(path.replaceAll(/\{([^}]+)\}/g, ":$1"), (request: Request, response: Response) => {
      front.matched(response, path);
      const compiled = methods.get(request.method === "HEAD" ? "GET" : request.method);
      if (compiled === undefined) return front.refuseMethod(request, response, [...methods.keys()]);
      return front.run(response, (thread) => compiled.answer(request, response, request.params, thread));
    });
  }
  app.use((_request: Request, response: Response) =>
    front.fail(response, new MusterError("ROUTE_NOT_FOUND")),
  );
  app.use((error: unknown, _request: Request, response: Response, _next: NextFunction) =>
    front.fail(response, error),
  );
  return app;
}

/** What is served as it is: the reference, and the documents given. */
function pagesOf(
  o: Pick<HttpServerOptions<Readonly<Record<string, Route>>>, "openapi" | "documents">,
): Record<string, () => Promise<PublicDocument>> {
  const cacheControl = "public, max-age=60";
  const openapi = {
    type: "application/json; charset=utf-8",
    text: JSON.stringify(o.openapi),
    cacheControl,
  };
  const docs = {
    type: "text/html; charset=utf-8",
    text: docsHtml(o.openapi),
    cacheControl,
    policy: docsPolicy,
  };
  return {
    "/api/v1/openapi.json": () => Promise.resolve(openapi),
    "/docs": () => Promise.resolve(docs),
    ...o.documents,
  };
}

function sortKey(path: string): string {
  return path.replaceAll("{", "~");
}

function listening(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, () => {
      server.off("error", reject);
      resolve();
    });
  });
}

const lingerMs = 2_000;
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function drain(
  server: Server,
  openedAtMs: ReadonlyMap<Socket, number>,
  front: Front,
  streams: Streams,
): Promise<void> {
  front.drain();
  // Whoever is in the middle of asking hears it with the next answer. To close a connection that looks idle breaks the
  // request that is on its way, and nobody can tell its sender whether it counted.
  const lingerUntilMs = performance.now() + lingerMs;
  for (const stream of streams.open) stream.end("draining");
  while (openedAtMs.size > 0 && performance.now() < lingerUntilMs) await pause(lingerMs / 20);
  await nobodyComes(server, lingerUntilMs + lingerMs);
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  for (const stream of streams.open) stream.end("draining");
  const sweep = setInterval(() => {
    // A connection that becomes idle only now would keep the server open until its keep-alive ends.
    server.closeIdleConnections();
    // To Node, a connection that never carried a byte is not idle; clients open such ones ahead of need. The request of
    // one that was opened just before nobody listened any more may still be on its way.
    const silentSinceMs = performance.now() - lingerMs;
    for (const [socket, atMs] of openedAtMs) {
      if (socket.bytesRead === 0 && atMs < silentSinceMs) socket.destroy();
    }
  }, 100);
  await closed;
  clearInterval(sweep);
}

/** Waits for a turn in which nobody connects: whoever has connected and is not accepted yet is reset by the kernel. */
async function nobodyComes(server: Server, untilMs: number): Promise<void> {
  let came = true;
  const note = (): void => void (came = true);
  server.on("connection", note);
  while (came && performance.now() < untilMs) {
    came = false;
    await new Promise((resolve) => setImmediate(resolve));
  }
  server.off("connection", note);
}

/** What Node's parser refuses never becomes a request: bad syntax, headers too large or too slow. */
function answerBrokenRequest(error: NodeJS.ErrnoException, socket: Socket): void {
  if (!socket.writable || error.code === "ECONNRESET") {
    socket.destroy();
    return;
  }
  const [status, what] =
    error.code === "HPE_HEADER_OVERFLOW"
      ? ["431 Request Header Fields Too Large", "the headers are too large"]
      : error.code === "ERR_HTTP_REQUEST_TIMEOUT"
        ? ["408 Request Timeout", "the request did not arrive in time"]
        : ["400 Bad Request", "this is not HTTP/1.1"];
  const details = [{ path: "request", message: what }];
  const body = errorBody(new MusterError("VALIDATION_FAILED", undefined, { details }));
  const head = `HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-type: application/json; charset=utf-8`;
  socket.end(`${head}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
}
