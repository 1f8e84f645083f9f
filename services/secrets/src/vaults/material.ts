import type { Material } from "@muster/contracts/secrets";

/** The same text for the same fields, in whatever order they come. */
export const textOf = (material: Material): string =>
  JSON.stringify(Object.entries(material).sort(([a], [b]) => (a < b ? -1 : 1)));
