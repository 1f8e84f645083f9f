import { expect } from "chai";
import { z } from "zod";
import type { BodyOf, ParamsOf, QueryOf, RouteReplyOf } from "./route.ts";
import { codesOf, defineRoute, pageFields, queryBoolean, queryInteger } from "./route.ts";

function setup() {
  const base = {
    summary: "s",
    tag: "t",
    access: "member",
    status: 200,
    reply: z.object({}),
    codes: [],
  } as const;
  const create = defineRoute({
    ...base,
    method: "POST",
    path: "/api/v1/vms/{vm_uuid}/commands",
    params: z.object({ vm_uuid: z.string() }),
    body: z.strictObject({ action: z.string(), tries: z.number().default(1) }),
    status: 202,
    reply: z.object({ id: z.string() }),
    codes: ["VM_NOT_FOUND"],
  });
  const list = defineRoute({
    ...base,
    method: "GET",
    path: "/api/v1/vms",
    query: z.strictObject({ ...pageFields }),
    meta: "cursor",
  });
  return { base, create, list };
}

describe("route declarations", () => {
  it("infer the types of params, query, body and reply", () => {
    const { create, list } = setup();
    expect([create.method, list.method]).to.deep.equal(["POST", "GET"]);
    const params: ParamsOf<typeof create> = { vm_uuid: "a" };
    const body: BodyOf<typeof create> = { action: "x", tries: 2 };
    const reply: RouteReplyOf<typeof create> = { id: "1" };
    const query: QueryOf<typeof list> = { limit: 3 };
    const noBody: BodyOf<typeof list> = undefined;
    // @ts-expect-error the output of a default is not optional
    const wrong: BodyOf<typeof create> = { action: "x" };
    expect([params, body, reply, query, noBody, wrong]).to.have.length(6);
  });

  it("refuse at compile time and at start params that are not the path's", () => {
    const { base } = setup();
    const params = z.object({ vm_uuid: z.string() });
    // @ts-expect-error the path has a parameter that params lacks
    expect(() => defineRoute({ ...base, method: "GET", path: "/x/{a}" })).to.throw("must be the path's");
    // @ts-expect-error params has a key that the path lacks
    expect(() => defineRoute({ ...base, method: "GET", path: "/x", params })).to.throw("must be the path's");
  });

  it("refuse bodies and queries that would let unknown fields through", () => {
    const { base } = setup();
    const loose = z.object({ a: z.string() });
    expect(() => defineRoute({ ...base, method: "POST", path: "/x", body: loose })).to.throw("strictObject");
    expect(() => defineRoute({ ...base, method: "GET", path: "/x", query: loose })).to.throw("strictObject");
    const union = z.union([z.strictObject({ a: z.string() }), z.strictObject({ b: z.string() })]);
    expect(defineRoute({ ...base, method: "POST", path: "/x", body: union }).body).to.equal(union);
  });

  it("refuse what breaks a convention, with what to change", () => {
    const { base } = setup();
    expect(() => defineRoute({ ...base, method: "GET", path: "/X" })).to.throw("lower case");
    const body = z.strictObject({});
    expect(() => defineRoute({ ...base, method: "GET", path: "/x", body })).to.throw("GET takes no body");
    expect(() => defineRoute({ ...base, method: "DELETE", path: "/x", status: 204 })).to.throw("z.null()");
    for (const access of ["public", "credentials"] as const) {
      expect(() => defineRoute({ ...base, method: "GET", path: "/x", access })).to.throw("its limits");
    }
  });

  it("honour Idempotency-Key by default on every POST that creates, and on nothing else", () => {
    const { base, create, list } = setup();
    expect(create.idempotencyKey).to.equal(true);
    expect(list.idempotencyKey).to.equal(false);
    expect(defineRoute({ ...base, method: "POST", path: "/x" }).idempotencyKey).to.equal(false);
  });

  it("carry the codes of their shape besides their own", () => {
    const { create, list } = setup();
    expect(codesOf(create)).to.include.members([
      "VM_NOT_FOUND",
      "VALIDATION_FAILED",
      "BAD_JSON",
      "BODY_TOO_LARGE",
      "UNSUPPORTED_MEDIA_TYPE",
      "IDEMPOTENCY_KEY_INVALID",
      "FORBIDDEN",
      "INTERNAL",
    ]);
    expect(codesOf(list)).to.include("CURSOR_INVALID").and.not.include("BAD_JSON");
    expect(codesOf(list), "an API key is exchanged").to.include("RATE_LIMITED");
  });

  it("read query numbers and booleans from plain text only", () => {
    const number = queryInteger({ min: 0, max: 10 });
    expect(number.parse("7")).to.equal(7);
    for (const odd of ["", " 7", "0x1", "1e0", "7.0", "11", "-1"]) {
      expect(number.safeParse(odd).success, odd).to.equal(false);
    }
    expect(queryBoolean().parse("false")).to.equal(false);
    expect(queryBoolean().safeParse("0").success).to.equal(false);
  });
});
