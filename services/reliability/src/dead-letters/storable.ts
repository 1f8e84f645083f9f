const depthMax = 8;
const entriesMax = 256;

/** Text that PostgreSQL takes: no NUL, no lone surrogates, bounded. */
export function storableText(text: string, charsMax: number): string {
  const clean = text.replace(/\0/g, "\ufffd").replace(/\p{Surrogate}/gu, "\ufffd");
  return clean.length <= charsMax ? clean : `${clean.slice(0, charsMax - 1).replace(/\p{Surrogate}$/u, "")}…`;
}

/** Any header as JSON that PostgreSQL takes; bytes become base64 text. */
export function storableJson(value: unknown, depth = 0): unknown {
  if (typeof value === "string") return storableText(value, 8_192);
  if (typeof value === "boolean" || value === null) return value;
  if (typeof value === "number") return Number.isFinite(value) ? value : String(value);
  if (Buffer.isBuffer(value)) return value.subarray(0, 4_096).toString("base64");
  if (depth >= depthMax) return "…";
  if (Array.isArray(value)) return value.slice(0, entriesMax).map((item) => storableJson(item, depth + 1));
  if (typeof value === "object") return storableRecord(value, depth);
  return typeof value === "bigint" ? String(value) : null;
}

export function storableRecord(value: object, depth = 0): Record<string, unknown> {
  const entries = Object.entries(value).slice(0, entriesMax);
  return Object.fromEntries(
    entries.map(([key, item]) => [storableText(key, 255), storableJson(item, depth + 1)]),
  );
}
