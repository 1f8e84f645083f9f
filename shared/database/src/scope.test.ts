import { expect } from "chai";
import fc from "fast-check";
import { beginText, checkedName, systemRoleOf, tenantsPerScopeMax } from "./scope.ts";

describe("the text that opens a transaction", () => {
  it("takes the system role, or names the tenants", () => {
    expect(beginText("system", "vm_ops_system")).to.equal('BEGIN; SET LOCAL ROLE "vm_ops_system"');
    expect(beginText({ tenants: ["a", "b-1"] }, "x")).to.equal("BEGIN; SET LOCAL muster.tenants = 'a,b-1'");
    expect(beginText({ tenants: [] }, "x")).to.equal("BEGIN; SET LOCAL muster.tenants = ''");
    expect(beginText({ tenants: [] }, "x", { isolation: "repeatable read", readOnly: true })).to.match(
      /^BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;/,
    );
  });

  it("refuses every tenant id that could end the literal or join two", () => {
    fc.assert(
      fc.property(fc.string(), (tenant) => {
        if (/^[a-z0-9][a-z0-9-]{0,62}$/.test(tenant)) return;
        expect(() => beginText({ tenants: [tenant] }, "x")).to.throw();
      }),
    );
    for (const tenant of ["a,b", "a'", "", "A", "a\n"]) {
      expect(() => beginText({ tenants: ["ok", tenant] }, "x")).to.throw();
    }
  });

  it("bounds the tenants of one scope", () => {
    const tenants = Array.from({ length: tenantsPerScopeMax + 1 }, (_, n) => `t${n}`);
    expect(() => beginText({ tenants }, "x")).to.throw(RangeError);
  });

  it("refuses names that cannot stand in SQL as they are", () => {
    expect(systemRoleOf("vm_ops")).to.equal("vm_ops_system");
    for (const name of ["", "Vm", 'a"b', "a-b", "1a", "a".repeat(41)]) {
      expect(() => checkedName(name, "schema")).to.throw();
    }
  });
});
