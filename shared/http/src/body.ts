import { MusterError } from "@muster/contracts/errors";
import type { IncomingMessage } from "node:http";
import { headerOf } from "./headers.ts";

export const bodyDepthMax = 32;

/** The client went away while sending: there is nobody to answer. */
export class ClientGone extends Error {
  override readonly name = "ClientGone";
}

/**
 * The JSON of a request; `{}` when it has no body. Throws MusterError BODY_TOO_LARGE,
 * UNSUPPORTED_MEDIA_TYPE, BAD_JSON, or VALIDATION_FAILED when nested too deep.
 */
export async function readJsonBody(request: IncomingMessage, bytesMax: number): Promise<unknown> {
  const length = headerOf(request, "content-length");
  const chunked = request.headers["transfer-encoding"] !== undefined;
  if (!chunked && (length === undefined || length === "0")) return {};
  refuseMediaType(request);
  if (length !== undefined && Number(length) > bytesMax) throw tooLarge(bytesMax);
  const bytes = await readBytes(request, bytesMax);
  if (bytes.length === 0) return {};
  const text = decoded(bytes);
  refuseDepth(text);
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw badJson(cause instanceof Error ? cause.message : "not JSON", cause);
  }
}

function refuseMediaType(request: IncomingMessage): void {
  const [type, ...parameters] = (headerOf(request, "content-type") ?? "").toLowerCase().split(";");
  const charset = parameters.map((one) => one.trim()).find((one) => one.startsWith("charset="));
  const utf8 = charset === undefined || /^charset="?utf-?8"?$/.test(charset);
  const encoding = headerOf(request, "content-encoding") ?? "identity";
  if (type!.trim() === "application/json" && utf8 && encoding.toLowerCase() === "identity") return;
  const fault =
    encoding.toLowerCase() === "identity"
      ? { path: "header.content-type", message: "must be application/json, in UTF-8" }
      : { path: "header.content-encoding", message: "must be absent: bodies are not compressed" };
  throw new MusterError("UNSUPPORTED_MEDIA_TYPE", undefined, { details: [fault] });
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
