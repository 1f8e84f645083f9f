import type { WorkContext } from "@muster/contracts/envelope";
import type { Principal } from "@muster/contracts/principal";
import type {
  BodyOf,
  CursorMeta,
  OpenAccess,
  ParamsOf,
  QueryOf,
  Route,
  RouteReplyOf,
} from "@muster/contracts/route";
import type { SseStream } from "./sse.ts";

export interface BasicCredentials {
  readonly user: string;
  readonly password: string;
}

export interface RouteRequest<R extends Route> {
  /** undefined on public routes and on those that look at credentials themselves. */
  readonly principal: R["access"] extends OpenAccess ? undefined : Principal;
  /** The access token to pass on, as `authenticate` gave it; the context's `identity` is the same. */
  readonly token: R["access"] extends OpenAccess ? undefined : string | undefined;
  /** What the client sent after `Bearer`, as it came. */
  readonly bearer: string | undefined;
  /** What came by `Authorization: Basic`. */
  readonly basic: BasicCredentials | undefined;
  readonly params: ParamsOf<R>;
  readonly query: QueryOf<R>;
  readonly body: BodyOf<R>;
  readonly idempotencyKey: string | undefined;
  readonly requestId: string;
  /** The client's IP address: the connection's, or what proxies say that are trusted; lower case. */
  readonly clientAddress: string | undefined;
  readonly context: WorkContext;
  /** Aborted when the client is gone or the request's time is up. */
  readonly signal: AbortSignal;
  /** Stream routes: opens the stream when the client asked for one, else undefined. Validate before opening. */
  sse(): SseStream | undefined;
}

interface ReplyBase<R extends Route> {
  readonly data: RouteReplyOf<R>;
  /** Instead of the route's own, for a success of another kind (200 for a repeated create). */
  readonly status?: 200 | 201 | 202 | 204;
  readonly headers?: Readonly<Record<string, string>>;
}

export type HttpReply<R extends Route> = ReplyBase<R> &
  (R extends { meta: "cursor" } ? { readonly meta: CursorMeta } : { readonly meta?: undefined });

/** Stream routes return undefined once their stream has said all. */
export type RouteHandler<R extends Route> = (
  request: RouteRequest<R>,
) => Promise<R extends { stream: string } ? HttpReply<R> | undefined : HttpReply<R>>;

/** Complete by type: a route without a handler, or a handler without a route, does not compile. */
export type Handlers<Rs extends Readonly<Record<string, Route>>> = {
  readonly [K in keyof Rs]: RouteHandler<Rs[K]>;
};

export interface Authenticated {
  readonly principal: Principal;
  /** The access token that goes along on the mesh; undefined only for the shadow principal. */
  readonly token: string | undefined;
}

export interface AuthenticationRequest {
  /** undefined when there was no Authorization header. */
  readonly bearer: string | undefined;
  readonly clientAddress: string | undefined;
  readonly route: Route;
  readonly context: WorkContext;
  readonly signal: AbortSignal;
}

/** Throws MusterError when the bearer is refused. */
export type Authenticate = (request: AuthenticationRequest) => Promise<Authenticated>;
