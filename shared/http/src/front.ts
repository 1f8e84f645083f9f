import { MusterError, errorCodes } from "@muster/contracts/errors";
import type { ErrorCode } from "@muster/contracts/errors";
import { runWith } from "@muster/telemetry/context";
import type { Logger } from "@muster/telemetry/logger";
import type { Counter, Gauge, Histogram, Metrics } from "@muster/telemetry/metrics";
import type { NextFunction } from "express";
import type { IncomingMessage, ServerResponse } from "node:http";
import { ClientGone } from "./body.ts";
import { threadOf } from "./headers.ts";
import type { RequestThread } from "./headers.ts";
import type { HttpLimits } from "./limits.ts";
import { securityHeaders, sendError } from "./reply.ts";
import type { Streams } from "./routing.ts";

interface Visit {
  readonly thread: RequestThread;
  readonly startedAt: bigint;
  route: string;
  error?: unknown;
}

const knownMethods = new Set(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);

function endConnection(response: ServerResponse): void {
  if (!response.headersSent) response.setHeader("connection", "close");
}

/** What every request passes, whatever its route: ids, headers, admission, one log line, metrics. */
export class Front {
  #draining = false;
  readonly #answering = new Set<ServerResponse>();
  readonly #o: { logger: Logger; metrics: Metrics; limits: HttpLimits; streams: Streams };
  readonly #visits = new WeakMap<ServerResponse, Visit>();
  readonly #requests: Counter;
  readonly #seconds: Histogram;
  readonly #inFlightGauge: Gauge;
  #entered = 0;

  constructor(o: { logger: Logger; metrics: Metrics; limits: HttpLimits; streams: Streams }) {
    this.#o = o;
    const { metrics } = o;
    const labels = ["method", "route"];
    this.#requests = metrics.counter({
      name: "muster_http_requests_total",
      help: "HTTP requests answered.",
      labels: [...labels, "status"],
    });
    this.#seconds = metrics.histogram({
      name: "muster_http_request_seconds",
      help: "From the request's headers to the end of its answer; streams not counted.",
      labels,
    });
    this.#inFlightGauge = metrics.gauge({
      name: "muster_http_requests_in_flight",
      help: "HTTP requests in flight.",
    });
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** Every answer from now on ends its connection, also to those who asked before: their next request would be cut. */
  drain(): void {
    this.#draining = true;
    for (const response of this.#answering) endConnection(response);
  }

  /** Streams hold a connection, not a place. */
  get inFlight(): number {
    return this.#entered - this.#o.streams.open.size;
  }

  enter(request: IncomingMessage, response: ServerResponse, next: NextFunction): void {
    const thread = threadOf(request);
    const visit: Visit = { thread, startedAt: process.hrtime.bigint(), route: "unmatched" };
    this.#visits.set(response, visit);
    for (const name in securityHeaders) response.setHeader(name, securityHeaders[name]!);
    response.setHeader("x-request-id", thread.requestId);
    response.setHeader("x-correlation-id", thread.context.correlationId);
    response.setHeader("traceparent", thread.context.traceparent);
    this.#answering.add(response);
    if (this.#draining) endConnection(response);
    const full = this.inFlight >= this.#o.limits.inFlightMax;
    this.#entered += 1;
    this.#inFlightGauge.inc();
    response.once("close", () => this.#leave(request, response, visit));
    if (full) this.fail(response, new MusterError("BACKPRESSURE"));
    else next();
  }

  matched(response: ServerResponse, route: string): void {
    const visit = this.#visits.get(response);
    if (visit !== undefined) visit.route = route;
  }

  async run(response: ServerResponse, work: (thread: RequestThread) => Promise<void>): Promise<void> {
    const thread = this.#visits.get(response)!.thread;
    try {
      await runWith(thread.context, () => work(thread));
    } catch (error) {
      this.fail(response, error);
    }
  }

  refuseMethod(request: IncomingMessage, response: ServerResponse, methods: readonly string[]): void {
    const allowed = new Set([...methods, ...(methods.includes("GET") ? ["HEAD"] : []), "OPTIONS"]);
    response.setHeader("allow", [...allowed].join(", "));
    if (request.method === "OPTIONS") {
      response.statusCode = 204;
      response.end();
    } else this.fail(response, new MusterError("METHOD_NOT_ALLOWED"));
  }

  fail(response: ServerResponse, error: unknown): void {
    const visit = this.#visits.get(response);
    if (visit !== undefined) visit.error = error;
    if (error instanceof ClientGone) response.destroy();
    else sendError(response, asMusterError(error), this.#o.limits.retryAfterMs);
  }

  #leave(request: IncomingMessage, response: ServerResponse, visit: Visit): void {
    this.#entered -= 1;
    this.#answering.delete(response);
    this.#inFlightGauge.dec();
    const { route, thread, error } = visit;
    const method = knownMethods.has(request.method ?? "") ? request.method! : "OTHER";
    const seconds = Number(process.hrtime.bigint() - visit.startedAt) / 1e9;
    // 499: the client closed before the answer was out.
    const status = response.headersSent ? response.statusCode : 499;
    const streamed = String(response.getHeader("content-type") ?? "").startsWith("text/event-stream");
    this.#requests.inc({ method, route, status });
    if (!streamed) this.#seconds.observe({ method, route }, seconds);
    const code = error === undefined || status === 499 ? {} : { code: asMusterError(error).code };
    const line = {
      method,
      route,
      status,
      took_ms: Math.round(seconds * 1e5) / 100,
      request_id: thread.requestId,
      ...code,
    };
    runWith(thread.context, () => this.#log(line, error));
  }

  #log(line: { status: number; code?: ErrorCode }, error: unknown): void {
    const { code } = line;
    if (code === undefined || errorCodes[code].status < 500) this.#o.logger.info(line, "request");
    else if (errorCodes[code].retriable)
      this.#o.logger.warn({ ...line, ...causeOf(error) }, "request refused");
    else this.#o.logger.error({ ...line, err: error }, "request failed");
  }
}

/** Overload alone has no cause, and must not fill the log with stacks. */
function causeOf(error: unknown): { err?: unknown } {
  return error instanceof Error && error.cause !== undefined ? { err: error } : {};
}

function asMusterError(error: unknown): MusterError {
  if (error instanceof MusterError) return error;
  // Express refuses a path that does not decode.
  if (error instanceof URIError) {
    const details = [{ path: "params", message: "the path is not valid percent-encoding" }];
    return new MusterError("VALIDATION_FAILED", undefined, { details, cause: error });
  }
  return new MusterError("INTERNAL", undefined, { cause: error });
}
