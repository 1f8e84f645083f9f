import type { JsonSchema } from "@muster/contracts/schema";
import fc from "fast-check";

/** What the leaves of samples are made by, from the schema of each. */
export interface Leaves {
  readonly strings: (schema: JsonSchema) => fc.Arbitrary<string>;
  readonly numbers: (schema: JsonSchema) => fc.Arbitrary<number>;
  /** Where the schema allows anything. */
  readonly anything: fc.Arbitrary<unknown>;
}

const plain: Leaves = {
  strings,
  numbers: (schema) =>
    schema.type === "integer"
      ? fc.integer(range(schema, 0, 1_000_000))
      : fc
          .double({ ...range(schema, 0, 1_000_000), noNaN: true })
          .map((value) => (Object.is(value, -0) ? 0 : value)),
  anything: fc.jsonValue({ maxDepth: 2 }),
};

/**
 * Values that fit a JSON Schema, of every shape that it allows; sizes are kept small.
 * Understands what zod's schemas become: object, array, string with pattern or format, numbers, enums, unions.
 */
export function samplesOf(schema: JsonSchema, leaves: Leaves = plain): fc.Arbitrary<unknown> {
  if (schema.const !== undefined) return fc.constant(schema.const);
  if (Array.isArray(schema.enum)) return fc.constantFrom(...(schema.enum as unknown[]));
  const variants = schema.anyOf ?? schema.oneOf;
  if (Array.isArray(variants))
    return fc.oneof(...variants.map((variant) => samplesOf(variant as JsonSchema, leaves)));
  if (Array.isArray(schema.allOf))
    return samplesOf(Object.assign({}, ...(schema.allOf as object[])) as JsonSchema, leaves);
  if (Array.isArray(schema.type)) {
    return fc.oneof(...schema.type.map((type: unknown) => samplesOf({ ...schema, type }, leaves)));
  }
  switch (schema.type) {
    case "object":
      return objects(schema, leaves);
    case "array":
      return arrays(schema, leaves);
    case "string":
      return leaves.strings(schema);
    case "integer":
    case "number":
      return leaves.numbers(schema);
    case "boolean":
      return fc.boolean();
    case "null":
      return fc.constant(null);
    default:
      return leaves.anything;
  }
}

/** The bounds of a number's schema, or these where it has none. */
export function range(schema: JsonSchema, low: number, high: number): { min: number; max: number } {
  const bound = (key: string, fallback: number) => (typeof schema[key] === "number" ? schema[key] : fallback);
  const above = typeof schema.exclusiveMinimum === "number" ? schema.exclusiveMinimum + 1 : undefined;
  const min = above ?? bound("minimum", low);
  return { min, max: Math.max(min, Math.min(bound("maximum", high), Number.MAX_SAFE_INTEGER)) };
}

function objects(schema: JsonSchema, leaves: Leaves): fc.Arbitrary<unknown> {
  const properties = (schema.properties ?? {}) as Record<string, JsonSchema>;
  const required = (schema.required ?? []) as string[];
  const model = Object.fromEntries(
    Object.entries(properties).map(([key, inner]) => [key, samplesOf(inner, leaves)]),
  );
  const least = Number(schema.minProperties ?? 0);
  const isEnough = (value: object): boolean => Object.keys(value).length >= least;
  const known = fc.record(model, { requiredKeys: required.filter((key) => key in model) });
  if (typeof schema.additionalProperties !== "object" || schema.additionalProperties === null)
    return known.filter(isEnough);
  const names = schema.propertyNames as JsonSchema | undefined;
  const key = names === undefined ? fc.stringMatching(/^[a-z]{1,8}$/) : samplesOf(names, leaves).map(String);
  const more = fc.dictionary(key, samplesOf(schema.additionalProperties as JsonSchema, leaves), {
    maxKeys: 3,
    noNullPrototype: true,
  });
  return fc
    .tuple(more, known)
    .map(([extra, base]) => ({ ...extra, ...base }))
    .filter(isEnough);
}

function arrays(schema: JsonSchema, leaves: Leaves): fc.Arbitrary<unknown> {
  const minLength = typeof schema.minItems === "number" ? schema.minItems : 0;
  const maxLength = Math.max(minLength, Math.min(Number(schema.maxItems ?? 4), 4));
  return fc.array(samplesOf((schema.items ?? {}) as JsonSchema, leaves), { minLength, maxLength });
}

/** Short text that fits the schema of a string. */
export function strings(schema: JsonSchema): fc.Arbitrary<string> {
  if (schema.format === "date-time") {
    const noInvalidDate = true;
    return fc
      .date({ min: new Date("2000-01-01T00:00:00Z"), max: new Date("2100-01-01T00:00:00Z"), noInvalidDate })
      .map((date) => date.toISOString());
  }
  if (schema.contentEncoding === "base64") return fc.base64String({ maxLength: 64 });
  const minLength = Number(schema.minLength ?? 0);
  const maxLength = Math.min(Number(schema.maxLength ?? 40), Math.max(minLength, 40));
  const fits = (text: string): boolean =>
    text.length >= minLength && text.length <= Number(schema.maxLength ?? Infinity);
  if (typeof schema.pattern === "string") {
    return fc.stringMatching(new RegExp(schema.pattern, "u"), { size: "small" }).filter(fits);
  }
  return fc
    .string({
      minLength,
      maxLength,
      unit: fc.constantFrom("a", "b", "Z", "0", " ", "-", "_", "é", "☃", "😀"),
    })
    .filter(fits);
}
