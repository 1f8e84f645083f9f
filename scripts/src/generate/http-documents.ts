import { openapiOf } from "@muster/contracts/openapi";
import { routes } from "@muster/contracts/routes";
import { stableJson } from "@muster/contracts/schema";
import type { GeneratedFile } from "./mesh-documents.ts";

/** docs/openapi.json, from the routes that the gateway serves. */
export function httpDocuments(version: string): GeneratedFile[] {
  const info = { title: "Muster", version };
  return [{ path: "docs/openapi.json", content: stableJson(openapiOf(routes, info)) }];
}
