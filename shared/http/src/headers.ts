import { correlationId } from "@muster/contracts/envelope";
import type { WorkContext } from "@muster/contracts/envelope";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { childTraceparent } from "@muster/telemetry/context";
import type { IncomingMessage } from "node:http";

/** A header's one value; undefined when absent or sent as a list. */
export function headerOf(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name];
  return typeof value === "string" ? value : undefined;
}

export interface RequestThread {
  readonly requestId: string;
  /** Gains the tenant once it is known. */
  context: WorkContext & { readonly traceparent: string };
}

/** The ids that tie a request to what it causes: accepted where well formed, else made. */
export function threadOf(request: IncomingMessage): RequestThread {
  const requestId = acceptedId(headerOf(request, "x-request-id")) ?? uuidv7();
  const correlation = acceptedId(headerOf(request, "x-correlation-id")) ?? requestId;
  const traceparent = childTraceparent(headerOf(request, "traceparent"));
  return { requestId, context: { correlationId: correlation, traceparent } };
}

function acceptedId(text: string | undefined): string | undefined {
  return text !== undefined && correlationId.safeParse(text).success ? text : undefined;
}

/** Stands for an Authorization header that brings no bearer; no verifier takes it for a token or a key. */
export const notABearer = "(not a bearer)";

/**
 * The bearer of `Authorization`; undefined when there is no such header. What a header of another form
 * brings is never taken for a token, but it is a bad token and not a missing one.
 */
export function bearerOf(request: IncomingMessage): string | undefined {
  const header = request.headers.authorization;
  if (header === undefined) return undefined;
  return /^Bearer +(\S+)$/i.exec(header.trim())?.[1] ?? notABearer;
}

/** `Authorization: Basic` (RFC 7617); undefined where the header is another or malformed. */
export function basicOf(request: IncomingMessage): { user: string; password: string } | undefined {
  const encoded = /^Basic +([A-Za-z0-9+/]+={0,2})$/i.exec(request.headers.authorization?.trim() ?? "")?.[1];
  if (encoded === undefined) return undefined;
  const text = Buffer.from(encoded, "base64").toString("utf8");
  const colon = text.indexOf(":");
  return colon < 0 ? undefined : { user: text.slice(0, colon), password: text.slice(colon + 1) };
}

/** 1 to 255 visible ASCII, bare or as a quoted structured-field string. Throws IDEMPOTENCY_KEY_INVALID. */
export function idempotencyKeyOf(request: IncomingMessage): string | undefined {
  const header = headerOf(request, "idempotency-key")?.trim();
  if (header === undefined) return undefined;
  const key = header.startsWith('"') ? unquoted(header) : header;
  if (key !== undefined && /^[\x21-\x7e]{1,255}$/.test(key)) return key;
  const fault = { path: "header.idempotency-key", message: "must be 1 to 255 visible ASCII characters" };
  throw new MusterError("IDEMPOTENCY_KEY_INVALID", undefined, { details: [fault] });
}

function unquoted(header: string): string | undefined {
  const inner = /^"((?:[^"\\]|\\["\\])*)"$/.exec(header)?.[1];
  return inner?.replaceAll(/\\(["\\])/g, "$1");
}

export function acceptsEventStream(request: IncomingMessage): boolean {
  return (headerOf(request, "accept") ?? "")
    .split(",")
    .some((range) => range.split(";")[0]!.trim().toLowerCase() === "text/event-stream");
}
