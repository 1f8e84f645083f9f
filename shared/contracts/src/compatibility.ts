import type { JsonSchema } from "./schema.ts";

/**
 * What an additive change must not do to a schema within one version. Each entry says where and what.
 * `side` is who may be older: for a `payload` an older sender must still be understood by the newer owner,
 * for a `reply` an older asker must still understand the newer owner's answer.
 */
export function breakingChanges(before: JsonSchema, after: JsonSchema, side: "payload" | "reply"): string[] {
  return compare(before, after, side, "(whole)", 0);
}

const depthMax = 40;

function compare(
  before: unknown,
  after: unknown,
  side: "payload" | "reply",
  path: string,
  depth: number,
): string[] {
  if (!isObject(before) || !isObject(after) || depth > depthMax) return [];
  const found: string[] = [];
  if (canonical(before.type) !== canonical(after.type)) {
    return [`${path}: type was ${canonical(before.type)}, now ${canonical(after.type)}`];
  }
  if (before.const !== undefined && canonical(before.const) !== canonical(after.const)) {
    found.push(`${path}: constant was ${canonical(before.const)}, now ${canonical(after.const)}`);
  }
  found.push(...compareEnums(before, after, side, path));
  found.push(...compareBounds(before, after, side, path));
  found.push(...compareProperties(before, after, side, path, depth));
  for (const key of ["items", "additionalProperties"] as const) {
    found.push(...compare(before[key], after[key], side, `${path}.${key}`, depth + 1));
  }
  for (const key of ["anyOf", "oneOf", "allOf"] as const) {
    const old = asArray(before[key]);
    const now = asArray(after[key]);
    if (old.length > now.length) found.push(`${path}: a variant of ${key} was removed`);
    if (side === "reply" && now.length > old.length && old.length > 0 && key !== "allOf") {
      found.push(`${path}: a variant of ${key} was added, which an older asker does not know`);
    }
    old.forEach((variant, i) =>
      found.push(...compare(variant, now[i], side, `${path}.${key}[${i}]`, depth + 1)),
    );
  }
  return found;
}

function compareProperties(
  before: Record<string, unknown>,
  after: Record<string, unknown>,
  side: "payload" | "reply",
  path: string,
  depth: number,
): string[] {
  const found: string[] = [];
  const old = isObject(before.properties) ? before.properties : {};
  const now = isObject(after.properties) ? after.properties : {};
  const oldRequired = new Set(asArray(before.required));
  const nowRequired = new Set(asArray(after.required));
  for (const [name, schema] of Object.entries(old)) {
    if (!(name in now)) found.push(`${path}.${name}: removed`);
    else found.push(...compare(schema, now[name], side, `${path}.${name}`, depth + 1));
    if (side === "reply" && oldRequired.has(name) && !nowRequired.has(name)) {
      found.push(`${path}.${name}: was always there, now optional`);
    }
  }
  for (const name of nowRequired) {
    if (side === "payload" && !oldRequired.has(name)) found.push(`${path}.${String(name)}: now required`);
  }
  return found;
}

function compareEnums(
  before: Record<string, unknown>,
  after: Record<string, unknown>,
  side: "payload" | "reply",
  path: string,
): string[] {
  const old = asArray(before.enum);
  const now = asArray(after.enum);
  if (old.length === 0) {
    return side === "payload" && now.length > 0 ? [`${path}: is now limited to an enumeration`] : [];
  }
  const removed = old.filter((value) => !now.includes(value));
  const added = now.filter((value) => !old.includes(value));
  if (side === "payload" && removed.length > 0 && now.length > 0) {
    return [`${path}: values removed: ${removed.join(", ")}`];
  }
  // An older asker meets a value that it does not know: the same break, seen from the other end.
  if (side === "reply" && added.length > 0) return [`${path}: values added: ${added.join(", ")}`];
  return [];
}

/** Bounds that may only loosen where we receive, and only tighten where we answer. */
function compareBounds(
  before: Record<string, unknown>,
  after: Record<string, unknown>,
  side: "payload" | "reply",
  path: string,
): string[] {
  const found: string[] = [];
  const upper = ["maximum", "maxLength", "maxItems", "maxProperties"];
  const lower = ["minimum", "minLength", "minItems", "minProperties"];
  for (const [keys, sign] of [
    [upper, 1],
    [lower, -1],
  ] as const) {
    for (const key of keys) {
      const old = numberOr(before[key], sign * Infinity);
      const now = numberOr(after[key], sign * Infinity);
      const tighter = sign * now < sign * old;
      const looser = sign * now > sign * old;
      if (side === "payload" && tighter) found.push(`${path}: ${key} was ${old}, now ${now}`);
      if (side === "reply" && looser) found.push(`${path}: ${key} was ${old}, now ${now}`);
    }
  }
  if (
    side === "payload" &&
    after.pattern !== undefined &&
    canonical(before.pattern) !== canonical(after.pattern)
  ) {
    found.push(`${path}: pattern changed`);
  }
  return found;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const asArray = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);
const numberOr = (value: unknown, fallback: number): number => (typeof value === "number" ? value : fallback);
const canonical = (value: unknown): string => JSON.stringify(value) ?? "unset";
