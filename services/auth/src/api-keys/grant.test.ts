import { expect } from "chai";
import { grantOf } from "./grant.ts";
import type { KeyHolder } from "./grant.ts";

function setup() {
  const holder: KeyHolder = {
    tenantId: "acme",
    kind: "user",
    principalId: "0190a8f0-0000-7000-8000-000000000001",
    roles: ["admin"],
    permissions: ["secrets.read", "approvals.review.prod"],
    roleMax: null,
    keyPermissions: null,
  };
  return { holder };
}

describe("what an API key grants", () => {
  it("is all that its holder has when it has no scopes", () => {
    const { holder } = setup();
    expect(grantOf(holder)).to.deep.equal({
      tenant_id: "acme",
      subject: "user:0190a8f0-0000-7000-8000-000000000001",
      roles: ["admin"],
      permissions: ["secrets.read", "approvals.review.prod"],
    });
  });

  it("is never more than its scopes, and never more than its holder has", () => {
    const { holder } = setup();
    const scoped = grantOf({
      ...holder,
      roleMax: "member",
      keyPermissions: ["secrets.read", "billing.read"],
    });
    expect(scoped.roles).to.deep.equal(["member"]);
    expect(scoped.permissions).to.deep.equal(["secrets.read"]);
    expect(grantOf({ ...holder, roleMax: "owner" }).roles).to.deep.equal(["admin"]);
    expect(grantOf({ ...holder, roles: [] }).roles).to.deep.equal([]);
  });
});
