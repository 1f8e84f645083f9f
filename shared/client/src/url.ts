import type { Route } from "@muster/contracts/route";

type Fields = Readonly<Record<string, unknown>>;

/** Absent query fields are left out; a list becomes a repeated parameter. */
export function urlOf(
  baseUrl: string,
  route: Pick<Route, "path">,
  input: { readonly params?: Fields; readonly query?: Fields },
): string {
  const path = route.path.replace(/\{([^{}]+)\}/g, (_, name: string) => {
    const value = input.params?.[name];
    if (typeof value !== "string" || value === "")
      throw new TypeError(`${route.path}: params.${name} is missing`);
    return encodeURIComponent(value);
  });
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(input.query ?? {})) {
    for (const one of Array.isArray(value) ? (value as unknown[]) : [value]) {
      if (one !== undefined) query.append(name, textOf(one, name));
    }
  }
  return query.size === 0 ? `${baseUrl}${path}` : `${baseUrl}${path}?${query.toString()}`;
}

function textOf(value: unknown, name: string): string {
  if (typeof value === "string") return value;
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  throw new TypeError(`query.${name} must be text, a number or a boolean`);
}
