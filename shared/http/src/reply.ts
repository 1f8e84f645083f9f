import { type MusterError } from "@muster/contracts/errors";
import type { ServerResponse } from "node:http";

/** On every answer; /docs replaces the content security policy by its own. */
export const securityHeaders: Readonly<Record<string, string>> = {
  "cache-control": "no-store",
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
};

export function sendText(response: ServerResponse, status: number, type: string, text: string): void {
  if (response.headersSent || response.destroyed) return;
  response.statusCode = status;
  response.setHeader("content-type", type);
  response.setHeader("content-length", Buffer.byteLength(text));
  response.end(response.req.method === "HEAD" ? undefined : text);
}

const discardedBytesMax = 16 * 1024 * 1024;
const json = "application/json; charset=utf-8";

export function sendSuccess(
  response: ServerResponse,
  reply: { status: number; data: unknown; meta?: unknown; headers?: Readonly<Record<string, string>> },
): void {
  for (const [name, value] of Object.entries(reply.headers ?? {})) response.setHeader(name, value);
  if (reply.status === 204) {
    response.statusCode = 204;
    response.end();
    return;
  }
  const { data, meta } = reply;
  sendText(response, reply.status, json, JSON.stringify({ success: true, data, meta }));
}

export function errorBody(error: MusterError): string {
  const { retry_after_ms: _inHeader, ...wire } = error.toWire();
  return JSON.stringify({ success: false, error: wire });
}

/** Retry-After stands on every 429 and 503: from the error, or `retryAfterMs`. */
export function sendError(response: ServerResponse, error: MusterError, retryAfterMs: number): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  if (error.status === 429 || error.status === 503) {
    const seconds = Math.max(1, Math.ceil((error.retryAfterMs ?? retryAfterMs) / 1_000));
    response.setHeader("retry-after", String(seconds));
  }
  if (error.status === 401) {
    const scheme = error.code === "INVALID_CLIENT" ? "Basic" : "Bearer";
    response.setHeader("www-authenticate", `${scheme} realm="muster"`);
  }
  // Node throws away what was not read of a body, so that the client can finish and read this answer;
  // beyond a bound it is cut off instead.
  const length = Number(response.req.headers["content-length"] ?? 0);
  if (length > discardedBytesMax) response.setHeader("connection", "close");
  sendText(response, error.status, json, errorBody(error));
}
