import { z } from "zod";
import type { ErrorCode } from "./errors.ts";
import type { LimitName } from "./limits.ts";
import type { Role } from "./principal.ts";

/** Largest request body of a route that does not say otherwise. */
export const bodyBytesDefault = 1024 * 1024;

/**
 * `public`: no token; `credentials`: the handler itself looks at who asks, for the routes that give tokens; `any`: any
 * principal; else at least this role.
 */
export type RouteAccess = "public" | "credentials" | "any" | Role;
/** Routes of these reach their handler without a principal. */
export type OpenAccess = "public" | "credentials";

interface RouteCore {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** Full path, parameters in braces: `/api/v1/vms/{vm_uuid}`. */
  readonly path: string;
  readonly summary: string;
  readonly tag: string;
  readonly access: RouteAccess;
  /** Keys are the path's parameters; values arrive as text. */
  readonly params?: z.ZodObject;
  /** Strict; values arrive as text (a field that is an array takes a repeated parameter). */
  readonly query?: z.ZodObject;
  /** Strict object, or a union of strict objects. */
  readonly body?: z.ZodType;
  /** The body may come as a form (application/x-www-form-urlencoded) too, for what OAuth 2.0 says is sent as one. */
  readonly form?: true;
  /** Status of success. 204 sends no body; its `reply` is `z.null()`. */
  readonly status: 200 | 201 | 202 | 204;
  /** What stands in `data`. */
  readonly reply: z.ZodType;
  /** Cursor listings answer with `meta.next_cursor`; null at the end. */
  readonly meta?: "cursor";
  /**
   * What counts its requests. Needed where the route is open: whoever may ask without a token is counted by something.
   * Elsewhere an API key is exchanged, under the limits of that.
   */
  readonly limits?: readonly LimitName[];
  /** Codes of this route's own; those of every route of its shape are added by `codesOf`. */
  readonly codes: readonly ErrorCode[];
  /** With `Accept: text/event-stream` the same route answers as a stream. */
  readonly stream?: "text/event-stream";
}

/** One HTTP route, declared once: the server, the client and the reference derive from it. */
export interface Route extends RouteCore {
  /** Whether `Idempotency-Key` is honoured; by default on every POST that creates (201, 202). Never required. */
  readonly idempotencyKey: boolean;
  readonly bodyBytesMax: number;
}

type RouteInput = RouteCore & Partial<Pick<Route, "idempotencyKey" | "bodyBytesMax">>;

type PathParam<P extends string> = P extends `${string}{${infer Name}}${infer Rest}`
  ? Name | PathParam<Rest>
  : never;
type ParamKey<D> = D extends { params: z.ZodObject<infer Shape> } ? keyof Shape & string : never;
type ParamsMatchPath<D extends { path: string }> = [PathParam<D["path"]>] extends [ParamKey<D>]
  ? [ParamKey<D>] extends [PathParam<D["path"]>]
    ? unknown
    : { params: `not in the path: ${Exclude<ParamKey<D>, PathParam<D["path"]>>}` }
  : { params: `params lacks: ${Exclude<PathParam<D["path"]>, ParamKey<D>>}` };

// eslint-disable-next-line @typescript-eslint/no-generated-empty-object-type -- exactly that: a route without them
type Nothing = Record<never, never>;
export type ParamsOf<R> = R extends { params: infer S extends z.ZodType } ? z.output<S> : Nothing;
export type QueryOf<R> = R extends { query: infer S extends z.ZodType } ? z.output<S> : Nothing;
export type BodyOf<R> = R extends { body: infer S extends z.ZodType } ? z.output<S> : undefined;
export type ParamsInputOf<R> = R extends { params: infer S extends z.ZodType } ? z.input<S> : Nothing;
export type QueryInputOf<R> = R extends { query: infer S extends z.ZodType } ? z.input<S> : Nothing;
export type BodyInputOf<R> = R extends { body: infer S extends z.ZodType } ? z.input<S> : undefined;
export type RouteReplyOf<R extends { reply: z.ZodType }> = z.output<R["reply"]>;
export interface CursorMeta {
  readonly next_cursor: string | null;
}
export type MetaOf<R> = R extends { meta: "cursor" } ? CursorMeta : undefined;

/** Declares a route; a declaration that breaks the conventions throws, with what to change. */
export function defineRoute<const D extends RouteInput>(declared: D & ParamsMatchPath<D>): D & Route {
  const creates = declared.method === "POST" && (declared.status === 201 || declared.status === 202);
  const input: D = declared;
  const route: D & Route = { idempotencyKey: creates, bodyBytesMax: bodyBytesDefault, ...input };
  const fault = faultOf(route);
  if (fault !== undefined) throw new Error(`${route.method} ${route.path}: ${fault}`);
  Object.freeze(route);
  return route;
}

/** Names of the path's parameters, in order. */
export function pathParameters(path: string): string[] {
  return [...path.matchAll(/\{([^{}]+)\}/g)].map((match) => match[1]!);
}

const pathShape = /^(\/[a-z0-9._-]+|\/\{[a-z][a-z0-9_]*\})+$/;

function faultOf(route: Route): string | undefined {
  if (!pathShape.test(route.path)) return "a path is lower case, its parameters {snake_case}";
  const inPath = pathParameters(route.path).sort().join();
  const declared = Object.keys(route.params?.shape ?? {})
    .sort()
    .join();
  if (inPath !== declared) return `params (${declared}) must be the path's parameters (${inPath})`;
  if (route.method === "GET" && route.body !== undefined) return "GET takes no body";
  const open = route.access === "public" || route.access === "credentials";
  if (open && route.limits === undefined) return "an open route declares its limits";
  if (route.form && route.body === undefined) return "a form is a body";
  if (route.method === "GET" && route.idempotencyKey) return "GET is idempotent by itself";
  if (route.stream !== undefined && route.method !== "GET") return "only GET streams";
  if (route.status === 204 && !(route.reply instanceof z.ZodNull)) return "the reply of 204 is z.null()";
  if (route.query !== undefined && !isStrict(route.query)) return "query must be a z.strictObject";
  if (route.body !== undefined && !isStrict(route.body)) return "body must be a z.strictObject";
  if (route.bodyBytesMax < 1 || route.bodyBytesMax > 8 * 1024 * 1024) return "bodyBytesMax is 1 to 8 MiB";
  return undefined;
}

function isStrict(schema: z.core.$ZodType): boolean {
  if (schema instanceof z.ZodUnion) return schema.options.every(isStrict);
  return schema instanceof z.ZodObject && schema.def.catchall instanceof z.ZodNever;
}

/** Every code that this route may be answered with, its own first. */
export function codesOf(route: Route): ErrorCode[] {
  const codes = new Set<ErrorCode>(route.codes);
  if (route.params || route.query || route.body) codes.add("VALIDATION_FAILED");
  if (route.body)
    for (const code of ["BAD_JSON", "BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE"] as const) codes.add(code);
  if (route.idempotencyKey) codes.add("IDEMPOTENCY_KEY_INVALID");
  if (route.meta === "cursor") codes.add("CURSOR_INVALID");
  if (route.access !== "public") {
    codes.add("MISSING_BEARER_TOKEN").add("INVALID_OR_MISSING_BEARER_TOKEN").add("RATE_LIMITED");
  }
  if (route.limits !== undefined && route.limits.length > 0) codes.add("RATE_LIMITED");
  if (!(route.access === "public" || route.access === "credentials" || route.access === "any")) {
    codes.add("FORBIDDEN");
  }
  const anyRoute = [
    "BACKPRESSURE",
    "DRAINING",
    "DEPENDENCY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
  ] as const;
  for (const code of anyRoute) codes.add(code);
  return [...codes];
}

/** A whole number in a query: decimal digits only, unlike `z.coerce` which reads "" as 0 and "0x10" as 16. */
export function queryInteger(bounds: { min: number; max: number }): z.ZodType<number, number | string> {
  const parsed = (value: unknown) =>
    typeof value === "string" && /^-?[0-9]{1,15}$/.test(value) ? Number(value) : value;
  // The cast only narrows what clients may pass in; preprocess itself says unknown.
  return z.preprocess(parsed, z.int().min(bounds.min).max(bounds.max)) as z.ZodType<number, number | string>;
}

/** `true` or `false` in a query. */
export function queryBoolean(): z.ZodType<boolean, boolean | "true" | "false"> {
  const parsed = (value: unknown) => (value === "true" ? true : value === "false" ? false : value);
  return z.preprocess(parsed, z.boolean()) as z.ZodType<boolean, boolean | "true" | "false">;
}

/** Spread into the query of every cursor listing. */
export const pageFields = {
  limit: queryInteger({ min: 1, max: 200 }).default(50).describe("Entries per page, at most 200."),
  cursor: z.string().min(1).max(512).optional().describe("`meta.next_cursor` of the page before."),
};
