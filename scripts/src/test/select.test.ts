import { expect } from "chai";
import { compiledOf, kindOf, sourceOf } from "./select.ts";

const packages = ["services/vm-ops", "shared/http", "agent", "test"];

describe("choosing tests", () => {
  it("knows the kind of a test by its name", () => {
    expect(kindOf("a/src/x.test.ts")).to.equal("unit");
    expect(kindOf("a/test/x.int.test.js")).to.equal("int");
    expect(kindOf("test/src/x.e2e.test.ts")).to.equal("e2e");
  });

  it("finds the compiled file of a source, and the source of a compiled file", () => {
    expect(compiledOf("services/vm-ops/src/a/b.test.ts", packages)).to.equal(
      "services/vm-ops/dist/src/a/b.test.js",
    );
    expect(compiledOf("agent/dist/test/c.int.test.js", packages)).to.equal("agent/dist/test/c.int.test.js");
    expect(compiledOf("elsewhere/c.test.ts", packages)).to.equal(undefined);
    expect(sourceOf("test/dist/src/d.e2e.test.js")).to.equal("test/src/d.e2e.test.ts");
  });
});
