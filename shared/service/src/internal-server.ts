import { createServer } from "node:http";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Metrics } from "@muster/telemetry/metrics";
import { scrubText } from "@muster/telemetry/redact";
import type { Closeable } from "./closing.ts";
import { once } from "./closing.ts";
import type { ReadinessBoard } from "./readiness.ts";

export interface InternalServer extends Closeable {
  readonly port: number;
}

/** Health, readiness and metrics, for the machine's own eyes: plain HTTP, GET and HEAD only. */
export async function openInternalServer(o: {
  host: string;
  port: number;
  board: ReadinessBoard;
  metrics: Metrics;
  version: string;
}): Promise<InternalServer> {
  const server = createServer(
    { requestTimeout: 5_000, headersTimeout: 5_000, keepAliveTimeout: 5_000, maxHeaderSize: 8_192 },
    (request, response) => {
      answer(o, request, response).catch(() => {
        if (!response.headersSent) response.writeHead(500);
        response.end();
      });
    },
  );
  server.maxConnections = 64;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(o.port, o.host, () => {
      server.off("error", reject);
      resolve();
    });
  });
  const address = server.address() as AddressInfo;
  return {
    port: address.port,
    close: once(async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      const timer = setTimeout(() => server.closeAllConnections(), 500);
      await closed;
      clearTimeout(timer);
    }),
  };
}

async function answer(
  o: { board: ReadinessBoard; metrics: Metrics; version: string },
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  if (request.method !== "GET" && request.method !== "HEAD") {
    response.writeHead(405, { allow: "GET, HEAD" }).end();
    return;
  }
  const path = (request.url ?? "/").split("?")[0];
  if (path === "/healthz") {
    const alive = o.board.phase !== "failed";
    const body = {
      alive,
      phase: o.board.phase,
      version: o.version,
      uptime_seconds: Math.floor(process.uptime()),
    };
    sendJson(response, alive ? 200 : 503, body);
  } else if (path === "/readyz") {
    const readiness = await o.board.read();
    sendJson(response, readiness.ready ? 200 : 503, readiness);
  } else if (path === "/metrics") {
    const text = await o.metrics.registry.metrics();
    response.writeHead(200, { "content-type": o.metrics.registry.contentType, "cache-control": "no-store" });
    response.end(text);
  } else {
    sendJson(response, 404, { paths: ["/healthz", "/readyz", "/metrics"] });
  }
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" });
  response.end(`${scrubText(JSON.stringify(body))}\n`);
}
