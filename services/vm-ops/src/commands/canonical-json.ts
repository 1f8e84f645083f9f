/** JSON with the keys of every object in order (RFC 8785 without its number rules): equal values, equal bytes. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, part: unknown) => (isPlainObject(part) ? sorted(part) : part));
}

function sorted(value: object): object {
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  // A null prototype keeps a key named __proto__ an ordinary one.
  const copy: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
  for (const [key, part] of entries) copy[key] = part;
  return copy;
}

const isPlainObject = (value: unknown): value is object =>
  typeof value === "object" && value !== null && !Array.isArray(value);
