import type { Contract } from "./define.ts";
import { mesh } from "./mesh.ts";
import { wireSchemaOf, type JsonSchema } from "./schema.ts";

/** What a golden file pins: the wire of one contract. */
export interface Golden {
  readonly name: string;
  readonly kind: Contract["kind"];
  readonly payload: JsonSchema;
  readonly reply?: JsonSchema;
  readonly codes?: readonly string[];
}

/** Every contract of the mesh, in the order of its name. */
export function contractsOf(): Contract[] {
  const groups: Record<string, Contract>[] = [
    ...Object.values(mesh.events),
    ...Object.values(mesh.requests),
    ...Object.values(mesh.reports),
    mesh.doorbells,
  ];
  return groups.flatMap((group) => Object.values(group)).sort((a, b) => (a.name < b.name ? -1 : 1));
}

export function goldenOf(contract: Contract): Golden {
  const payload = wireSchemaOf(contract.payload);
  if (contract.kind === "event" || contract.kind === "doorbell") {
    return { name: contract.name, kind: contract.kind, payload };
  }
  const { name, kind } = contract;
  return { name, kind, payload, reply: wireSchemaOf(contract.reply), codes: [...contract.codes].sort() };
}
