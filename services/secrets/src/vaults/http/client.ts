import * as http from "node:http";
import * as https from "node:https";
import { materialBytesMax } from "@muster/contracts/secrets";
import { once } from "@muster/service/closing";
import type { Closeable } from "@muster/service/closing";
import { VaultError } from "../vault.ts";

/** JSON within JSON, and Go's way to write `<`, make material longer. */
export const answerBytesMax = 8 * materialBytesMax;

export interface Ask {
  readonly method: "GET" | "POST" | "DELETE";
  /** Below the base, with its query; encoded. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Goes as JSON. */
  readonly body?: unknown;
  readonly signal: AbortSignal;
}

export interface Answer {
  readonly status: number;
  readonly retryAfterMs: number | undefined;
  readonly text: string;
}

export interface HttpClient extends Closeable {
  /** Every answer is one, whatever its status. Throws VaultError where there is none, or more than `answerBytesMax`. */
  ask(asked: Ask): Promise<Answer>;
}

interface Failure {
  readonly code: string;
  /** The connection was one that had been used, and the other side closed it before it read a word of ours. */
  readonly stale: boolean;
}

/**
 * JSON over HTTP to one address. Redirects are answers like others: what we send is for this address alone. No error says more of what
 * was sent or answered than its status and the network's own code, and none has a cause: both may hold a token or material.
 */
export function openHttpClient(o: { base: string; ca?: string | undefined; userAgent: string }): HttpClient {
  const base = new URL(o.base);
  const secure = base.protocol === "https:";
  const settings = { keepAlive: true, maxFreeSockets: 8 };
  const agent = secure
    ? new https.Agent({ ...settings, ...(o.ca === undefined ? {} : { ca: o.ca }) })
    : new http.Agent(settings);
  const { request } = secure ? https : http;
  const root = base.href.replace(/\/+$/, "");
  let closed = false;

  function send(asked: Ask, payload: Buffer | undefined): Promise<Answer | Failure> {
    return new Promise((resolve) => {
      const headers: Record<string, string> = {
        accept: "application/json",
        "accept-encoding": "identity",
        "user-agent": o.userAgent,
        ...asked.headers,
      };
      if (payload !== undefined) {
        headers["content-type"] = "application/json";
        headers["content-length"] = String(payload.length);
      }
      const { method, signal } = asked;
      const sent = request(`${root}${asked.path}`, { method, agent, signal, headers });
      let answered = false;
      const fail = (error: unknown): void => {
        const code = codeOf(error);
        const reset = code === "ECONNRESET" || code === "EPIPE";
        resolve({ code, stale: sent.reusedSocket && reset && !answered });
      };
      sent.once("error", fail);
      sent.once("response", (response) => {
        answered = true;
        readAnswer(response)
          .then(resolve, fail)
          // What was not read to its end must not be taken for the next answer.
          .finally(() => {
            if (!response.complete) sent.destroy();
          });
      });
      sent.end(payload);
    });
  }

  return {
    async ask(asked) {
      if (closed) throw new VaultError("unavailable", "it is closed");
      const payload = asked.body === undefined ? undefined : Buffer.from(JSON.stringify(asked.body));
      let result = await send(asked, payload);
      // All that we ask is harmless to ask again.
      if ("stale" in result && result.stale) result = await send(asked, payload);
      if ("status" in result) return result;
      if (closed) throw new VaultError("unavailable", "it was closed");
      if (asked.signal.aborted)
        throw new VaultError("unavailable", "it did not answer before it was given up");
      throw failed(result.code);
    },
    close: once(async () => {
      closed = true;
      agent.destroy();
    }),
  };
}

const tooLong = "ANSWER_TOO_LONG";
const inAnotherCode = "ANSWER_ENCODED";
const notText = "ERR_ENCODING_INVALID_ENCODED_DATA";

function failed(code: string): VaultError {
  if (code === tooLong) return new VaultError("garbled", `it answers with more than ${answerBytesMax} bytes`);
  if (code === inAnotherCode)
    return new VaultError("garbled", "it answers in an encoding that was not asked for");
  if (code === notText) return new VaultError("garbled", "it answers with what is not UTF-8");
  if (code.startsWith("HPE_")) return new VaultError("garbled", `it does not answer in HTTP: ${code}`);
  return new VaultError("unavailable", `it cannot be reached: ${code}`);
}

async function readAnswer(response: http.IncomingMessage): Promise<Answer> {
  const { statusCode = 0, headers } = response;
  const encoding = headers["content-encoding"];
  if (encoding !== undefined && encoding !== "identity") throw coded(inAnotherCode);
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response) {
    if (!(chunk instanceof Buffer)) continue;
    bytes += chunk.length;
    if (bytes > answerBytesMax) throw coded(tooLong);
    chunks.push(chunk);
  }
  const text = new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks));
  return { status: statusCode, retryAfterMs: retryAfterOf(headers["retry-after"]), text };
}

const coded = (code: string): Error => Object.assign(new Error(code), { code });

/** The code alone: an error of the parser holds the bytes that it read. */
function codeOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return codeOf(error.errors[0]);
  if (error instanceof Error && "code" in error && typeof error.code === "string") return error.code;
  return error instanceof Error ? error.name : "unknown";
}

const retryAfterMaxMs = 3_600_000;

/** Seconds or a date (RFC 9110 §10.2.3); at most an hour. */
function retryAfterOf(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  const ms = /^[0-9]{1,9}$/.test(header) ? Number(header) * 1_000 : Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.min(Math.max(0, ms), retryAfterMaxMs);
}
