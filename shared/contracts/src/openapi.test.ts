import { expect } from "chai";
import { z } from "zod";
import { errorCodes } from "./errors.ts";
import { openapiOf } from "./openapi.ts";
import { codesOf, defineRoute, pageFields } from "./route.ts";
import { routes } from "./routes.ts";

const info = { title: "Muster", version: "1.0.0" };

interface Operation {
  operationId: string;
  parameters: { name?: string; in?: string; required?: boolean; $ref?: string; schema?: unknown }[];
  responses: Record<string, { content?: Record<string, { examples?: object; schema?: unknown }> }>;
  security?: unknown[];
}
interface Document {
  openapi: string;
  paths: Record<string, Record<string, Operation>>;
  components: Record<string, Record<string, unknown>>;
}
const documentOf = (declared: Parameters<typeof openapiOf>[0]) => {
  const text = JSON.stringify(openapiOf(declared, info));
  return { text, document: JSON.parse(text) as Document };
};

describe("the OpenAPI document", () => {
  for (const [key, route] of Object.entries(routes)) {
    it(`describes ${key} with its parameters and every code it may answer`, () => {
      const operation = documentOf(routes).document.paths[route.path]![route.method.toLowerCase()]!;
      expect(operation.operationId).to.equal(key);
      const names = operation.parameters.flatMap((one) => one.name ?? []);
      expect(names).to.include.members([
        ...Object.keys(route.params?.shape ?? {}),
        ...Object.keys((route.query as z.ZodObject | undefined)?.shape ?? {}),
      ]);
      for (const code of codesOf(route)) {
        const response = operation.responses[String(errorCodes[code].status)];
        expect(response?.content?.["application/json"]?.examples, code).to.have.property(code);
      }
    });
  }

  it("refers only to what it contains", () => {
    const { text, document } = documentOf(routes);
    for (const [, target] of text.matchAll(/"\$ref":"([^"]+)"/g)) {
      const found = target!
        .slice(2)
        .split("/")
        .reduce<unknown>((at, part) => (at as Record<string, unknown> | undefined)?.[part], document);
      expect(found, target).to.not.equal(undefined);
    }
    expect(document.openapi).to.equal("3.1.0");
  });

  it("moves definitions of recursive schemas to the components", () => {
    interface Tree {
      children: Tree[];
    }
    const tree: z.ZodType<Tree> = z.lazy(() => z.object({ children: z.array(tree) }));
    const base = { summary: "s", tag: "t", status: 200, codes: [] } as const;
    const route = defineRoute({
      ...base,
      method: "GET",
      path: "/x",
      access: "public",
      limits: [],
      reply: tree,
    });
    const { text, document } = documentOf({ route });
    expect(text).to.not.include("#/$defs").and.not.include('"$ref":"#"');
    expect(
      Object.keys(document.components["schemas"]!).some((name) => name.startsWith("routeReply")),
    ).to.equal(true);
    expect(document.paths["/x"]!["get"]!.security).to.deep.equal([]);
  });

  it("says which query fields are required, and their bounds", () => {
    const base = {
      summary: "s",
      tag: "t",
      status: 200,
      codes: [],
      access: "any",
      reply: z.object({}),
    } as const;
    const query = z.strictObject({ ...pageFields, name: z.string() });
    const route = defineRoute({ ...base, method: "GET", path: "/x", query, meta: "cursor" });
    const { parameters } = documentOf({ route }).document.paths["/x"]!["get"]!;
    const byName = Object.fromEntries(parameters.map((one) => [one.name, one]));
    expect(byName["limit"]).to.deep.include({ in: "query", required: false });
    expect(byName["limit"]?.schema).to.include({ type: "integer", minimum: 1, maximum: 200, default: 50 });
    expect(byName["name"]).to.include({ required: true });
  });
});
