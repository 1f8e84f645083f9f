import { expect } from "chai";
import fc from "fast-check";
import { errorOf, setup } from "./serving.ts";

const formType = { "content-type": "application/x-www-form-urlencoded" };
const plain = { authorization: "" };

describe("a route that takes forms", () => {
  it("reads a form and JSON alike; a field without a value is none", async () => {
    const { server, post } = await setup();
    const dataOf = async (response: Response): Promise<unknown> =>
      ((await response.json()) as { data: { body: unknown } }).data.body;
    const expected = { name: "a b&c=é" };
    const form = `name=${encodeURIComponent(expected.name).replaceAll("%20", "+")}&other=`;
    expect(await dataOf(await post("/api/v1/form", form, formType))).to.deep.equal(expected);
    const charset = { "content-type": "application/x-www-form-urlencoded; charset=UTF-8" };
    expect(await dataOf(await post("/api/v1/form", form, charset))).to.deep.equal(expected);
    expect(await dataOf(await post("/api/v1/form", JSON.stringify(expected)))).to.deep.equal(expected);
    expect(await dataOf(await post("/api/v1/form", "", formType))).to.deep.equal({});
    await server.close();
  });

  it("names repeated and unknown fields, keeps its bound, and other routes take no form", async () => {
    const { server, post } = await setup();
    const faults = await errorOf(await post("/api/v1/form", "name=a&name=b&more=c&__proto__=d", formType));
    expect(faults).to.deep.equal({
      status: 400,
      code: "VALIDATION_FAILED",
      paths: ["body.name", "body.more", "body.__proto__"],
    });
    const large = await post("/api/v1/form", `name=${"x".repeat(2_000)}`, formType);
    expect((await errorOf(large)).code).to.equal("BODY_TOO_LARGE");
    expect((await errorOf(await post("/api/v1/things", "name=a", formType))).code).to.equal(
      "UNSUPPORTED_MEDIA_TYPE",
    );
    const text = await post("/api/v1/form", "name=a", { "content-type": "text/plain" });
    expect((await errorOf(text)).code).to.equal("UNSUPPORTED_MEDIA_TYPE");
    await server.close();
  });

  it("never fails, whatever the form", async () => {
    const { server, post } = await setup();
    const piece = fc.oneof(
      fc.string({ unit: "binary", maxLength: 40 }),
      fc.constantFrom("%", "%ff", "&", "=", "name"),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(piece, { maxLength: 12 }), async (pieces) => {
        expect((await post("/api/v1/form", pieces.join(""), formType)).status).to.be.oneOf([200, 400, 413]);
      }),
      { numRuns: 60 },
    );
    await server.close();
  });
});

describe("a route that looks at credentials itself", () => {
  it("is reached without any, and gets bearer or Basic as they came", async () => {
    const { server, post } = await setup();
    const seen = async (authorization: string) => {
      const response = await post("/api/v1/form", "{}", { authorization });
      const { bearer, basic } = (
        (await response.json()) as { data: { bearer: string | null; basic: unknown } }
      ).data;
      return [bearer === "member" ? bearer : null, basic];
    };
    const encoded = (text: string) => Buffer.from(text).toString("base64");
    expect(await seen("Bearer member")).to.deep.equal(["member", null]);
    const basic = [null, { user: "id", password: "se:cret" }];
    expect(await seen(`Basic ${encoded("id:se:cret")}`)).to.deep.equal(basic);
    expect(await seen(`basic  ${encoded("id:se:cret")}`)).to.deep.equal(basic);
    for (const odd of [
      "Basic",
      `Basic ${encoded("no colon")}`,
      "Basic !!",
      "Basic aWQ6eA== x",
      plain.authorization,
    ]) {
      expect(await seen(odd), odd).to.deep.equal([null, null]);
    }
    await server.close();
  });
});
