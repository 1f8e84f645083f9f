import { MusterError } from "@muster/contracts/errors";
import { openapiOf } from "@muster/contracts/openapi";
import type { Role } from "@muster/contracts/principal";
import { defineRoute, pageFields } from "@muster/contracts/route";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { Writable } from "node:stream";
import { z } from "zod";
import type { Handlers } from "../src/handler.ts";
import type { HttpLimits } from "../src/limits.ts";
import { openHttpServer } from "../src/server.ts";

const base = { summary: "A route <of> the test.", tag: "things", codes: [], status: 200 } as const;
const thingParams = z.object({ thing_id: z.string().regex(/^[a-z0-9-]{1,36}$/, "must be an id") });

export const routes = {
  create: defineRoute({
    ...base,
    method: "POST",
    path: "/api/v1/things",
    access: "member",
    body: z.strictObject({
      name: z.string().min(1).max(100),
      count: z.int().min(0).max(10).default(1),
      tags: z.record(z.string().max(20), z.string()).optional(),
      inner: z.strictObject({ args: z.array(z.string().max(50)).max(20) }).optional(),
    }),
    status: 201,
    reply: z.object({ name: z.string(), count: z.number(), idempotency_key: z.string().nullable() }),
    bodyBytesMax: 64 * 1024,
  }),
  list: defineRoute({
    ...base,
    method: "GET",
    path: "/api/v1/things",
    access: "any",
    query: z.strictObject({ ...pageFields, state: z.array(z.enum(["a", "b"])).optional() }),
    reply: z.object({ limit: z.number(), states: z.array(z.string()) }),
    meta: "cursor",
  }),
  summary: defineRoute({
    ...base,
    method: "GET",
    path: "/api/v1/things/summary",
    access: "public",
    limits: [],
    reply: z.object({ principal: z.string().nullable() }),
  }),
  read: defineRoute({
    ...base,
    method: "GET",
    path: "/api/v1/things/{thing_id}",
    access: "member",
    params: thingParams,
    reply: z.object({ id: z.string(), tenant: z.string(), correlation: z.string(), identity: z.string() }),
  }),
  remove: defineRoute({
    ...base,
    method: "DELETE",
    path: "/api/v1/things/{thing_id}",
    access: "owner",
    params: thingParams,
    status: 204,
    reply: z.null(),
  }),
  form: defineRoute({
    ...base,
    method: "POST",
    path: "/api/v1/form",
    access: "credentials",
    limits: [],
    body: z.strictObject({ name: z.string().max(100).optional(), other: z.string().max(100).optional() }),
    form: true,
    bodyBytesMax: 1_024,
    reply: z.object({ body: z.unknown(), bearer: z.string().nullable(), basic: z.unknown() }),
  }),
  slow: defineRoute({
    ...base,
    method: "POST",
    path: "/api/v1/slow",
    access: "public",
    limits: [],
    body: z.strictObject({}),
    reply: z.object({ done: z.boolean() }),
  }),
  fail: defineRoute({
    ...base,
    method: "GET",
    path: "/api/v1/fail",
    access: "public",
    limits: [],
    query: z.strictObject({ how: z.string() }),
    reply: z.null(),
  }),
  follow: defineRoute({
    ...base,
    method: "GET",
    path: "/api/v1/follow",
    access: "public",
    limits: [],
    query: z.strictObject({ flood: z.enum(["true"]).optional() }),
    reply: z.object({ page: z.string() }),
    stream: "text/event-stream",
  }),
};

/** What the handlers wait for and write down. */
interface Stage {
  /** Released by the test. */
  readonly gate: { open: () => void; opened: Promise<void> };
  slowStarted: number;
  slowAborted: number;
  floodSent: number;
  streamEnded: number;
}

function newStage(): Stage {
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { gate: { open, opened }, slowStarted: 0, slowAborted: 0, floodSent: 0, streamEnded: 0 };
}

const handlersOf = (stage: Stage): Handlers<typeof routes> => ({
  create: ({ body, idempotencyKey }) =>
    Promise.resolve({
      data: { name: body.name, count: body.count, idempotency_key: idempotencyKey ?? null },
      headers: { location: "/api/v1/things/1" },
    }),
  list: ({ query }) =>
    Promise.resolve({ data: { limit: query.limit, states: query.state ?? [] }, meta: { next_cursor: null } }),
  summary: ({ principal }) => Promise.resolve({ data: { principal: principal === undefined ? null : "x" } }),
  read: ({ params, principal, context }) =>
    Promise.resolve({
      data: {
        id: params.thing_id,
        tenant: principal.tenant_id,
        correlation: context.correlationId,
        identity: context.identity ?? "",
      },
    }),
  remove: () => Promise.resolve({ data: null }),
  form: ({ body, bearer, basic }) =>
    Promise.resolve({ data: { body, bearer: bearer ?? null, basic: basic ?? null } }),
  async slow({ signal }) {
    stage.slowStarted += 1;
    signal.addEventListener("abort", () => (stage.slowAborted += 1));
    await stage.gate.opened;
    return { data: { done: true } };
  },
  fail({ query }) {
    if (query.how === "limited")
      return Promise.reject(new MusterError("RATE_LIMITED", undefined, { retryAfterMs: 2_500 }));
    return Promise.reject(new Error("secret inner detail"));
  },
  async follow({ sse, query }) {
    const stream = sse();
    if (stream === undefined) return { data: { page: "whole" } };
    await stream.send({
      id: "1",
      event: "output",
      data: { text: "a\nb", after: stream.lastEventId ?? null },
    });
    if (query.flood !== undefined) {
      const block = "x".repeat(64 * 1024);
      while (await stream.send({ data: block })) stage.floodSent += block.length;
    } else if (!stream.signal.aborted) {
      await new Promise<void>((resolve) => stream.signal.addEventListener("abort", () => resolve()));
    }
    stage.streamEnded += 1;
    return undefined;
  },
});

/** A server with one route of each kind. The bearer is the role: `member`, `admin`, `owner`. */
export async function setup(limits: Partial<HttpLimits> = {}) {
  const stage = newStage();
  const logged: string[] = [];
  const destination = new Writable({
    write(chunk: Buffer, _encoding, done) {
      logged.push(chunk.toString());
      done();
    },
  });
  const metrics = createMetrics({ service: "test" });
  const server = await openHttpServer({
    host: "127.0.0.1",
    port: 0,
    routes,
    handlers: handlersOf(stage),
    authenticate({ bearer }) {
      if (bearer === undefined) return Promise.reject(new MusterError("MISSING_BEARER_TOKEN"));
      const known: Role | undefined = (["member", "admin", "owner"] as const).find((one) => one === bearer);
      if (known === undefined) return Promise.reject(new MusterError("INVALID_OR_MISSING_BEARER_TOKEN"));
      const principal = { tenant_id: "acme", subject: "user:1", roles: [known], permissions: [] };
      return Promise.resolve({ principal, token: `token-of-${known}` });
    },
    logger: openLogger({ service: "test", level: "info", destination }),
    metrics,
    openapi: openapiOf(routes, { title: "Things <&>", version: "1.0.0" }),
    limits,
  });
  const call = (path: string, init: RequestInit = {}) =>
    fetch(`${server.url}${path}`, {
      ...init,
      headers: { authorization: "Bearer member", ...(init.headers as Record<string, string> | undefined) },
    });
  const post = (path: string, body: string, headers: Record<string, string> = {}) =>
    call(path, { method: "POST", body, headers: { "content-type": "application/json", ...headers } });
  const logLines = () => logged.map((line) => JSON.parse(line) as Record<string, unknown>);
  return { server, call, post, stage, metrics, logged, logLines };
}

export const failure = z.strictObject({
  success: z.literal(false),
  error: z.strictObject({
    code: z.string(),
    message: z.string(),
    details: z.array(z.strictObject({ path: z.string(), message: z.string() })).optional(),
  }),
});

export async function errorOf(response: Response) {
  const { error } = failure.parse(await response.json());
  return { status: response.status, code: error.code, paths: (error.details ?? []).map(({ path }) => path) };
}

/** Polls until `check` holds; for what another process or the event loop does in its own time. */
export async function until(check: () => boolean, timeoutMs = 5_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!check()) {
    if (Date.now() > deadline) throw new Error(`not so within ${timeoutMs} ms: ${check.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
