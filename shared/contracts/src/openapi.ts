import { z } from "zod";
import { correlationId, traceparent } from "./envelope.ts";
import { errorCode, errorCodes, faultDetail } from "./errors.ts";
import type { ErrorCode } from "./errors.ts";
import { codesOf } from "./route.ts";
import type { Route } from "./route.ts";

type Json = Record<string, unknown>;

export interface OpenApiInfo {
  readonly title: string;
  readonly version: string;
  readonly description?: string;
}

/** The OpenAPI 3.1 document of these routes; `operationId` is the route's key. Plain data, same input, same output. */
export function openapiOf(routes: Readonly<Record<string, Route>>, info: OpenApiInfo): Json {
  const schemas: Json = { Error: errorSchema() };
  const paths: Record<string, Json> = {};
  const tags = new Set<string>();
  const used = new Set<ErrorCode>();
  for (const [key, route] of Object.entries(routes)) {
    tags.add(route.tag);
    for (const code of codesOf(route)) used.add(code);
    const item = (paths[route.path] ??= {});
    item[route.method.toLowerCase()] = operationOf(key, route, schemas);
  }
  return {
    openapi: "3.1.0",
    info: { ...info },
    jsonSchemaDialect: "https://json-schema.org/draft/2020-12/schema",
    servers: [{ url: "/" }],
    tags: [...tags].sort().map((name) => ({ name })),
    security: [{ bearer: [] }],
    paths,
    components: {
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer", bearerFormat: "JWT or API key" },
        client: { type: "http", scheme: "basic", description: "A service account's id and its API key." },
      },
      schemas,
      parameters: sharedParameters(),
      headers: sharedHeaders(),
      examples: Object.fromEntries([...used].sort().map((code) => [code, exampleOf(code)])),
    },
  };
}

function operationOf(key: string, route: Route, schemas: Json): Json {
  const parameters = [
    ...fieldParameters("path", route.params, key, schemas),
    ...fieldParameters("query", route.query, key, schemas),
    ...Object.keys(sharedParameters())
      .filter((name) => name !== "IdempotencyKey" || route.idempotencyKey)
      .map((name) => ({ $ref: `#/components/parameters/${name}` })),
  ];
  const sent = route.body && { schema: schemaOf(route.body, "input", `${key}Body`, schemas) };
  const body = route.body && {
    required: !route.body.safeParse({}).success,
    content: {
      "application/json": sent,
      ...(route.form ? { "application/x-www-form-urlencoded": sent } : {}),
    },
  };
  return {
    operationId: key,
    summary: route.summary,
    tags: [route.tag],
    ...securityOf(route),
    "x-access": route.access,
    ...(route.body ? { "x-body-bytes-max": route.bodyBytesMax } : {}),
    parameters,
    ...(body ? { requestBody: body } : {}),
    responses: { [route.status]: successOf(key, route, schemas), ...failuresOf(route) },
  };
}

function securityOf({ access }: Route): Json {
  if (access === "public") return { security: [] };
  // Or in the body: the empty one says that the header may be missing.
  return access === "credentials" ? { security: [{ bearer: [] }, { client: [] }, {}] } : {};
}

function successOf(key: string, route: Route, schemas: Json): Json {
  const headers = threadHeaders();
  if (route.status === 204) return { description: "Done; no body.", headers };
  const cursor = {
    type: "object",
    properties: { next_cursor: { type: ["string", "null"], description: "null at the end." } },
    required: ["next_cursor"],
  };
  const schema = {
    type: "object",
    properties: {
      success: { const: true },
      data: schemaOf(route.reply, "output", `${key}Reply`, schemas),
      ...(route.meta === "cursor" ? { meta: cursor } : {}),
    },
    required: ["success", "data", ...(route.meta === "cursor" ? ["meta"] : [])],
  };
  const stream = { "text/event-stream": { schema: { type: "string" } } };
  return {
    description: "Success.",
    headers,
    content: { "application/json": { schema }, ...(route.stream ? stream : {}) },
  };
}

function failuresOf(route: Route): Json {
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of codesOf(route)) {
    const { status } = errorCodes[code];
    byStatus.set(status, [...(byStatus.get(status) ?? []), code]);
  }
  const responses: Json = {};
  for (const [status, codes] of [...byStatus].sort(([a], [b]) => a - b)) {
    const examples = Object.fromEntries(
      codes.map((code) => [code, { $ref: `#/components/examples/${code}` }]),
    );
    const retry =
      status === 429 || status === 503 ? { "Retry-After": { $ref: "#/components/headers/RetryAfter" } } : {};
    responses[status] = {
      description: codes.map((code) => `\`${code}\`: ${errorCodes[code].sentence}`).join("\n\n"),
      headers: { ...threadHeaders(), ...retry },
      content: { "application/json": { schema: { $ref: "#/components/schemas/Error" }, examples } },
    };
  }
  return responses;
}

function fieldParameters(
  place: "path" | "query",
  fields: z.ZodObject | undefined,
  key: string,
  schemas: Json,
): Json[] {
  const shape: Readonly<Record<string, z.ZodType>> = fields?.shape ?? {};
  return Object.entries(shape).map(([name, field]) => {
    const schema = schemaOf(field, "input", `${key}${place === "path" ? "Param" : "Query"}_${name}`, schemas);
    const { description, ...rest } = schema;
    const absent = z.safeParse(field, undefined);
    // zod leaves out a default that stands around a preprocess; the reader needs it.
    const byDefault = absent.success && absent.data !== undefined ? { default: absent.data } : {};
    return {
      name,
      in: place,
      required: place === "path" || !absent.success,
      ...(description === undefined ? {} : { description }),
      schema: { ...rest, ...byDefault },
    };
  });
}

/** JSON Schema of one schema; what it defines for itself moves to the document's components. */
function schemaOf(schema: z.core.$ZodType, io: "input" | "output", name: string, schemas: Json): Json {
  const made = z.toJSONSchema(schema, { io, unrepresentable: "any", target: "draft-2020-12" });
  const { $schema: _draft, "~standard": _standard, $defs, ...rest } = made as Json;
  const text = JSON.stringify(rest);
  const recursive = text.includes('"$ref":"#"');
  const names = new Map(
    Object.keys(($defs ?? {}) as Json).map((key) => [key, `${name}_${key.replace(/^_+/, "")}`]),
  );
  const moved = (part: unknown): Json => rewritten(part, names, name) as Json;
  for (const [key, part] of Object.entries(($defs ?? {}) as Json)) schemas[names.get(key)!] = moved(part);
  if (!recursive) return moved(rest);
  schemas[name] = moved(rest);
  return { $ref: `#/components/schemas/${name}` };
}

function rewritten(part: unknown, names: ReadonlyMap<string, string>, root: string): unknown {
  if (Array.isArray(part)) return part.map((inner) => rewritten(inner, names, root));
  if (typeof part !== "object" || part === null) return part;
  return Object.fromEntries(
    Object.entries(part).map(([key, inner]) => {
      if (key !== "$ref" || typeof inner !== "string") return [key, rewritten(inner, names, root)];
      const def = /^#\/\$defs\/(.+)$/.exec(inner)?.[1];
      return [key, `#/components/schemas/${def === undefined ? root : names.get(def)}`];
    }),
  );
}

function errorSchema(): Json {
  const schema = z.object({
    success: z.literal(false),
    error: z.object({
      code: errorCode.describe("Stable; act on this, not on the message."),
      message: z.string().describe("What to do."),
      details: z.array(faultDetail).max(100).optional().describe("Each fault with its path."),
    }),
  });
  return schemaOf(schema, "output", "Error", {});
}

function exampleOf(code: ErrorCode): Json {
  return { summary: code, value: { success: false, error: { code, message: errorCodes[code].sentence } } };
}

const threadHeaders = (): Json => ({
  "X-Request-Id": { $ref: "#/components/headers/RequestId" },
  "X-Correlation-Id": { $ref: "#/components/headers/CorrelationId" },
  traceparent: { $ref: "#/components/headers/Traceparent" },
});

function sharedHeaders(): Json {
  const id = schemaOf(correlationId, "output", "Id", {});
  return {
    RequestId: { description: "The request's id, as sent or as made.", schema: id },
    CorrelationId: { description: "Finds everything this request caused, in logs and messages.", schema: id },
    Traceparent: { description: "W3C trace context.", schema: schemaOf(traceparent, "output", "Trace", {}) },
    RetryAfter: { description: "Seconds.", schema: { type: "integer", minimum: 1 } },
  };
}

function sharedParameters(): Json {
  const header = (name: string, description: string, schema: Json): Json => ({
    name,
    in: "header",
    required: false,
    description,
    schema,
  });
  const id = schemaOf(correlationId, "input", "Id", {});
  return {
    RequestId: header("X-Request-Id", "Made where missing or malformed; echoed.", id),
    CorrelationId: header("X-Correlation-Id", "The request's id where missing or malformed; echoed.", id),
    Traceparent: header(
      "traceparent",
      "W3C trace context, continued.",
      schemaOf(traceparent, "input", "Trace", {}),
    ),
    IdempotencyKey: header(
      "Idempotency-Key",
      "Repeating the request with the same key has one effect and the same answer. Bare or quoted.",
      { type: "string", minLength: 1, maxLength: 255 },
    ),
  };
}
