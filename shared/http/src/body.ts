import { MusterError } from "@muster/contracts/errors";
import type { IncomingMessage } from "node:http";
import { parse as parseForm } from "node:querystring";
import { headerOf } from "./headers.ts";

export const bodyDepthMax = 32;

/** The client went away while sending: there is nobody to answer. */
export class ClientGone extends Error {
  override readonly name = "ClientGone";
}

/** Fields of a form; RFC 6749 has five. */
const formFieldsMax = 50;

export interface BodyRules {
  readonly bodyBytesMax: number;
  readonly form?: true;
}

/**
 * The JSON of a request, or the fields of a form where the route takes one; `{}` when it has no body. Throws MusterError
 * BODY_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE, BAD_JSON, or VALIDATION_FAILED when nested too deep.
 */
export async function readBody(
  request: IncomingMessage,
  { bodyBytesMax: bytesMax, form }: BodyRules,
): Promise<unknown> {
  const length = headerOf(request, "content-length");
  const chunked = request.headers["transfer-encoding"] !== undefined;
  if (!chunked && (length === undefined || length === "0")) return {};
  const type = mediaTypeOf(request, form === true);
  if (length !== undefined && Number(length) > bytesMax) throw tooLarge(bytesMax);
  const bytes = await readBytes(request, bytesMax);
  if (bytes.length === 0) return {};
  const text = decoded(bytes);
  if (type === formType) return fieldsOf(text);
  refuseDepth(text);
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw badJson(cause instanceof Error ? cause.message : "not JSON", cause);
  }
}

const jsonType = "application/json";
const formType = "application/x-www-form-urlencoded";

function mediaTypeOf(request: IncomingMessage, form: boolean): string {
  const [type, ...parameters] = (headerOf(request, "content-type") ?? "").toLowerCase().split(";");
  const charset = parameters.map((one) => one.trim()).find((one) => one.startsWith("charset="));
  const utf8 = charset === undefined || /^charset="?utf-?8"?$/.test(charset);
  const encoding = headerOf(request, "content-encoding") ?? "identity";
  const taken = form ? [jsonType, formType] : [jsonType];
  const sent = taken.find((one) => one === type!.trim());
  if (sent !== undefined && utf8 && encoding.toLowerCase() === "identity") return sent;
  const fault =
    encoding.toLowerCase() === "identity"
      ? { path: "header.content-type", message: `must be ${taken.join(" or ")}, in UTF-8` }
      : { path: "header.content-encoding", message: "must be absent: bodies are not compressed" };
  throw new MusterError("UNSUPPORTED_MEDIA_TYPE", undefined, { details: [fault] });
}

/** A field without a value is as if it were not there (RFC 6749 §3.2); one that is repeated becomes a list, which no field takes. */
function fieldsOf(text: string): Record<string, unknown> {
  const parsed = parseForm(text, "&", "=", { maxKeys: formFieldsMax });
  return Object.fromEntries(Object.entries(parsed).filter(([, value]) => value !== ""));
}

function readBytes(request: IncomingMessage, bytesMax: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    const settle = (result: Buffer | Error) => {
      request.off("data", onData).off("end", onEnd).off("error", onGone).off("close", onGone);
      if (result instanceof Error) reject(result);
      else resolve(result);
    };
    const onData = (chunk: Buffer) => {
      size += chunk.length;
      if (size > bytesMax) settle(tooLarge(bytesMax));
      else chunks.push(chunk);
    };
    const onEnd = () => settle(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, size));
    const onGone = () => settle(new ClientGone("the client went away while sending"));
    request.on("data", onData).on("end", onEnd).on("error", onGone).on("close", onGone);
  });
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

function decoded(bytes: Buffer): string {
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw badJson("not UTF-8", cause);
  }
}

/** Before parsing, so that depth costs nothing: brackets outside of strings. */
function refuseDepth(text: string): void {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (inString) {
      if (char === 0x5c) i++;
      else if (char === 0x22) inString = false;
    } else if (char === 0x22) inString = true;
    else if (char === 0x7b || char === 0x5b) {
      if (++depth <= bodyDepthMax) continue;
      const fault = { path: "body", message: `nested deeper than ${bodyDepthMax}` };
      throw new MusterError("VALIDATION_FAILED", undefined, { details: [fault] });
    } else if (char === 0x7d || char === 0x5d) depth--;
  }
}

function badJson(message: string, cause: unknown): MusterError {
  // Only the kind and place of the fault: the parser quotes what it read.
  const place =
    /position \d+|line \d+ column \d+|end of JSON input|not UTF-8/.exec(message)?.[0] ?? "not JSON";
  return new MusterError("BAD_JSON", undefined, { details: [{ path: "body", message: place }], cause });
}

function tooLarge(bytesMax: number): MusterError {
  const fault = { path: "body", message: `at most ${bytesMax} bytes` };
  return new MusterError("BODY_TOO_LARGE", `The body is larger than ${bytesMax} bytes; send less.`, {
    details: [fault],
  });
}
