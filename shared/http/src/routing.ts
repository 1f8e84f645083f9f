import { MusterError, faultsOf } from "@muster/contracts/errors";
import { hasRole } from "@muster/contracts/principal";
import type { Principal, Role } from "@muster/contracts/principal";
import type { Route } from "@muster/contracts/route";
import type { IncomingMessage, ServerResponse } from "node:http";
import { runWith } from "@muster/telemetry/context";
import { parse as parseQuery } from "node:querystring";
import { z } from "zod";
import { readBody } from "./body.ts";
import { clientAddressOf } from "./client-address.ts";
import type { TrustedProxies } from "./client-address.ts";
import type { Authenticate, Authenticated, RouteHandler } from "./handler.ts";
import { acceptsEventStream, basicOf, bearerOf, headerOf, idempotencyKeyOf } from "./headers.ts";
import type { RequestThread } from "./headers.ts";
import type { HttpLimits } from "./limits.ts";
import { sendSuccess } from "./reply.ts";
import { OpenSseStream } from "./sse.ts";

/** What the server keeps about the streams of all routes. */
export interface Streams {
  readonly open: Set<OpenSseStream>;
}

export interface CompiledRoute {
  readonly route: Route;
  answer(
    request: IncomingMessage,
    response: ServerResponse,
    params: unknown,
    thread: RequestThread,
  ): Promise<void>;
}

const queryKeysMax = 100;
const nothing = z.strictObject({});

/** Everything about a route that can be settled before the first request. */
export function compileRoute<R extends Route>(
  route: R,
  handler: RouteHandler<R>,
  o: { authenticate: Authenticate; limits: HttpLimits; streams: Streams; trusted: TrustedProxies },
): CompiledRoute {
  const paramsSchema = route.params;
  const querySchema: z.ZodObject = route.query ?? nothing;
  const queryFields: Readonly<Record<string, z.ZodType>> = querySchema.shape;
  const listKeys = new Set(Object.keys(queryFields).filter((key) => isList(queryFields[key])));
  // The generic handler is called with values that the route's own schemas have made.
  const call = handler as unknown as (
    request: object,
  ) => Promise<Parameters<typeof sendSuccess>[1] | undefined>;

  return {
    route,
    async answer(request, response, rawParams, thread) {
      const ending = new AbortController();
      response.once("close", () => ending.abort());
      const bearer = bearerOf(request);
      const clientAddress = clientAddressOf(request, o.trusted);
      const asking = { bearer, clientAddress, thread, signal: ending.signal };
      const who = await authenticated(route, o.authenticate, asking);
      // From here on log lines name the tenant.
      const context = { ...thread.context, tenantId: who?.principal.tenant_id, identity: who?.token };
      thread.context = context;
      const params = paramsSchema === undefined ? {} : checked(paramsSchema, rawParams, "params");
      const query = checked(querySchema, queryOf(request, listKeys), "query");
      const idempotencyKey = route.idempotencyKey ? idempotencyKeyOf(request) : undefined;
      const body =
        route.body === undefined ? undefined : checked(route.body, await readBody(request, route), "body");
      const opened: { stream?: OpenSseStream } = {};
      const given = {
        principal: who?.principal,
        token: who?.token,
        bearer,
        basic: basicOf(request),
        params,
        query,
        body,
        idempotencyKey,
        requestId: thread.requestId,
        clientAddress,
        context,
        signal: ending.signal,
        sse() {
          if (route.stream === undefined || request.method !== "GET" || !acceptsEventStream(request)) {
            return undefined;
          }
          return (opened.stream ??= openStream(request, response, o));
        },
      };
      const expired = () => {
        if (opened.stream !== undefined) return false;
        ending.abort();
        return true;
      };
      try {
        const work = runWith(context, () => call(given));
        const reply = await within(o.limits.handlerTimeoutMs, work, expired);
        if (opened.stream !== undefined) return;
        if (reply === undefined) throw new Error(`the handler of ${route.path} returned nothing`);
        sendSuccess(response, { ...reply, status: reply.status ?? route.status });
      } finally {
        opened.stream?.end("done");
      }
    },
  };
}

async function authenticated(
  route: Route,
  authenticate: Authenticate,
  o: {
    bearer: string | undefined;
    clientAddress: string | undefined;
    thread: RequestThread;
    signal: AbortSignal;
  },
): Promise<Authenticated | undefined> {
  if (route.access === "public" || route.access === "credentials") return undefined;
  const { bearer, clientAddress, thread, signal } = o;
  const who = await authenticate({ bearer, clientAddress, route, context: thread.context, signal });
  if (route.access !== "any") refuseRole(who.principal, route.access);
  return who;
}

function refuseRole(principal: Principal, needed: Role): void {
  if (hasRole(principal, needed)) return;
  const fault = { path: "principal.roles", message: `role ${needed} is needed` };
  throw new MusterError("FORBIDDEN", undefined, { details: [fault] });
}

function checked<S extends z.ZodType>(schema: S, value: unknown, root: string): z.output<S> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new MusterError("VALIDATION_FAILED", undefined, { details: faultsOf(parsed.error, root) });
}

function queryOf(request: IncomingMessage, listKeys: ReadonlySet<string>): Record<string, unknown> {
  const url = request.url ?? "";
  const at = url.indexOf("?");
  if (at < 0) return {};
  const parsed: Record<string, unknown> = parseQuery(url.slice(at + 1), "&", "=", { maxKeys: queryKeysMax });
  for (const key of listKeys) if (typeof parsed[key] === "string") parsed[key] = [parsed[key]];
  return parsed;
}

function isList(schema: z.core.$ZodType | undefined): boolean {
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodDefault) return isList(schema.def.innerType);
  return schema instanceof z.ZodArray;
}

function openStream(
  request: IncomingMessage,
  response: ServerResponse,
  o: { limits: HttpLimits; streams: Streams },
): OpenSseStream {
  if (o.streams.open.size >= o.limits.streamsMax) {
    throw new MusterError("BACKPRESSURE", "Too many streams are open; retry after the time given.");
  }
  const stream = new OpenSseStream(response, headerOf(request, "last-event-id"), {
    keepAliveMs: o.limits.streamKeepAliveMs,
    stallMs: o.limits.streamStallMs,
  });
  o.streams.open.add(stream);
  stream.signal.addEventListener("abort", () => o.streams.open.delete(stream), { once: true });
  return stream;
}

/** What `work` gives, or DEADLINE_EXCEEDED; `expires` may say that the time does not apply any more. */
function within<T>(timeoutMs: number, work: Promise<T>, expires: () => boolean): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      if (expires()) reject(new MusterError("DEADLINE_EXCEEDED"));
    }, timeoutMs);
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
