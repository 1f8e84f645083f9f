import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import type {
  BodyInputOf,
  MetaOf,
  ParamsInputOf,
  QueryInputOf,
  Route,
  RouteReplyOf,
} from "@muster/contracts/route";
import { routes } from "@muster/contracts/routes";
import { follow } from "./follow.ts";
import type { FollowedEvent, FollowOptions } from "./follow.ts";
import { errorOf, unreachable } from "./reply.ts";
import { retrying, wait } from "./retry.ts";
import type { RetryOptions } from "./retry.ts";
import { urlOf } from "./url.ts";

export interface ClientOptions {
  /** `http://127.0.0.1:8080` */
  readonly baseUrl: string;
  /** An API key or an access token; a function is asked before every attempt. */
  readonly token: string | (() => string | Promise<string>);
  /** Of one attempt of a call. */
  readonly timeoutMs?: number;
  readonly attemptsMax?: number;
  readonly fetch?: typeof fetch;
  readonly random?: () => number;
  readonly wait?: RetryOptions["wait"];
  readonly streamSilenceMaxMs?: number;
}

export interface CallOptions {
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
  /** Sent on routes that honour it; one is made where none is given, so that a retry cannot repeat the effect. */
  readonly idempotencyKey?: string;
  readonly correlationId?: string;
}

type Part<K extends string, T> = [T] extends [undefined]
  ? unknown
  : Record<string, never> extends T
    ? { readonly [P in K]?: T }
    : { readonly [P in K]: T };

export type CallInput<R> = CallOptions &
  Part<"params", ParamsInputOf<R>> &
  Part<"query", QueryInputOf<R>> &
  Part<"body", BodyInputOf<R>>;

export interface Answer<R extends { reply: Route["reply"] }> {
  readonly data: RouteReplyOf<R>;
  readonly meta: MetaOf<R>;
  readonly status: number;
  readonly requestId: string | null;
  readonly correlationId: string | null;
  /** The answer of an earlier request with the same Idempotency-Key. */
  readonly replayed: boolean;
}

type Call<R extends Route> =
  Record<string, never> extends CallInput<R>
    ? (input?: CallInput<R>) => Promise<Answer<R>>
    : (input: CallInput<R>) => Promise<Answer<R>>;

/** One method per route. Every one throws MusterError with the server's code and details. */
export type Client = { readonly [K in keyof typeof routes]: Call<(typeof routes)[K]> } & {
  /** State and output of a command as they come, until it has ended; resumes by itself. */
  follow(commandId: string, options?: FollowOptions): AsyncGenerator<FollowedEvent, void, void>;
};

interface AnyInput extends CallOptions {
  readonly params?: Readonly<Record<string, unknown>>;
  readonly query?: Readonly<Record<string, unknown>>;
  readonly body?: unknown;
}

interface Wired extends RetryOptions {
  readonly baseUrl: string;
  readonly token: () => string | Promise<string>;
  readonly timeoutMs: number;
  readonly fetch: typeof fetch;
}

export function createClient(o: ClientOptions): Client {
  const given = o.token;
  const wired: Wired = {
    baseUrl: o.baseUrl.replace(/\/+$/, ""),
    token: typeof given === "function" ? given : () => given,
    timeoutMs: o.timeoutMs ?? 30_000,
    attemptsMax: o.attemptsMax ?? 5,
    fetch: o.fetch ?? fetch,
    random: o.random ?? Math.random,
    wait: o.wait ?? wait,
  };
  const calls = Object.entries(routes).map(([key, route]: [string, Route]) => [
    key,
    (input: AnyInput = {}) => call(wired, route, input),
  ]);
  const silenceMaxMs = o.streamSilenceMaxMs ?? 45_000;
  return {
    // Each entry was made from the route of its key; the type of `routes` says which input that is.
    ...(Object.fromEntries(calls) as Omit<Client, "follow">),
    follow: (commandId, options = {}) =>
      follow(options, {
        retry: wired,
        silenceMaxMs,
        open: (from, signal) => openStream(wired, commandId, from, signal),
      }),
  };
}

async function call(wired: Wired, route: Route, input: AnyInput): Promise<Answer<Route>> {
  const idempotencyKey = route.idempotencyKey ? (input.idempotencyKey ?? uuidv7()) : undefined;
  const correlationId = input.correlationId ?? uuidv7();
  const repeatable = route.method === "GET" || idempotencyKey !== undefined;
  const timeoutMs = input.timeoutMs ?? wired.timeoutMs;
  return retrying({ ...wired, repeatable, signal: input.signal }, async () => {
    const timeout = AbortSignal.timeout(timeoutMs);
    // Node 20 collects a timeout that only AbortSignal.any() knows, and then it never fires; a listener keeps it.
    timeout.addEventListener("abort", () => undefined, { once: true });
    const headers: Record<string, string> = { accept: "application/json", "x-correlation-id": correlationId };
    if (input.body !== undefined) headers["content-type"] = "application/json";
    if (idempotencyKey !== undefined) headers["idempotency-key"] = idempotencyKey;
    const response = await send(wired, urlOf(wired.baseUrl, route, input), {
      method: route.method,
      headers,
      signal: input.signal === undefined ? timeout : AbortSignal.any([input.signal, timeout]),
      ...(input.body === undefined ? {} : { body: JSON.stringify(input.body) }),
    });
    return await answerOf(route, response, input.signal);
  });
}

type Sent = Omit<RequestInit, "headers"> & { readonly headers: Readonly<Record<string, string>> };

async function send(wired: Wired, url: string, init: Sent): Promise<Response> {
  const authorization = `Bearer ${await wired.token()}`;
  let response: Response;
  try {
    response = await wired.fetch(url, { ...init, headers: { ...init.headers, authorization } });
  } catch (error) {
    if (init.signal?.aborted === true && !isTimeout(init.signal.reason)) throw error;
    if (isTimeout(error)) throw new MusterError("DEADLINE_EXCEEDED", undefined, { cause: error });
    throw unreachable(wired.baseUrl, error);
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function answerOf(
  route: Route,
  response: Response,
  signal: AbortSignal | undefined,
): Promise<Answer<Route>> {
  const { data, meta } = response.status === 204 ? { data: null } : await bodyOf(response, signal);
  const reply = route.reply.safeParse(data);
  if (!reply.success) {
    throw new MusterError(
      "CONTRACT_VIOLATION",
      `the reply of ${route.method} ${route.path} breaks its contract`,
      {
        cause: reply.error,
      },
    );
  }
  return {
    data: reply.data,
    meta: (route.meta === "cursor" ? { next_cursor: cursorOf(meta) } : undefined) as undefined,
    status: response.status,
    requestId: response.headers.get("x-request-id"),
    correlationId: response.headers.get("x-correlation-id"),
    replayed: response.headers.get("idempotency-replayed") === "true",
  };
}

async function bodyOf(
  response: Response,
  signal: AbortSignal | undefined,
): Promise<{ data?: unknown; meta?: unknown }> {
  try {
    const body: unknown = await response.json();
    return typeof body === "object" && body !== null ? body : {};
  } catch (error) {
    if (signal?.aborted === true) throw error;
    throw new MusterError("DEPENDENCY_UNAVAILABLE", "the answer broke off or is not JSON", { cause: error });
  }
}

function cursorOf(meta: unknown): string | null {
  if (typeof meta !== "object" || meta === null || !("next_cursor" in meta)) return null;
  return typeof meta.next_cursor === "string" ? meta.next_cursor : null;
}

async function openStream(
  wired: Wired,
  commandId: string,
  from: string | undefined,
  signal: AbortSignal,
): Promise<Response> {
  const headers: Record<string, string> = { accept: "text/event-stream" };
  if (from !== undefined) headers["last-event-id"] = from;
  const url = urlOf(wired.baseUrl, routes.readOutput, { params: { id: commandId } });
  return await send(wired, url, { method: "GET", headers, signal });
}

function isTimeout(error: unknown): boolean {
  return error instanceof Error && error.name === "TimeoutError";
}
