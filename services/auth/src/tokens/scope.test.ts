import { roles } from "@muster/contracts/principal";
import { expect } from "chai";
import fc from "fast-check";
import { narrowed, scopeFaults, scopeOf, scopeText } from "./scope.ts";

const words = ["secrets.read", "approvals.review.prod", "approvals.review.nonprod"];
const who = fc.record({
  tenant_id: fc.constant("acme"),
  subject: fc.constant("user:u"),
  roles: fc.constantFrom(...roles).map((role) => [role]),
  permissions: fc.subarray(words),
});
const scope = fc.subarray([...roles, ...words, "no.such"]);

describe("a scope", () => {
  it("never adds to what the grant has, and leaves nothing that it does not name", () => {
    fc.assert(
      fc.property(who, scope, (holder, asked) => {
        const left = narrowed(holder, asked);
        expect(holder.permissions).to.include.members(left.permissions);
        expect(asked).to.include.members(left.permissions);
        const [role] = left.roles;
        if (role !== undefined) {
          expect(roles.indexOf(role)).to.be.at.most(roles.indexOf(holder.roles[0] ?? "member"));
        }
        expect(left.roles.length).to.equal(asked.some((word) => roles.includes(word as "member")) ? 1 : 0);
      }),
    );
  });

  it("that is granted is exactly what is carried", () => {
    fc.assert(
      fc.property(who, scope, (holder, asked) => {
        if (scopeFaults(holder, asked).length > 0) return;
        expect(scopeFaults(narrowed(holder, asked), asked)).to.deep.equal([]);
        expect(narrowed(narrowed(holder, asked), asked)).to.deep.equal(narrowed(holder, asked));
      }),
    );
  });

  it("names each fault: a role above, a permission that is not held, a word that is none", () => {
    const holder = {
      tenant_id: "a",
      subject: "user:u",
      roles: ["admin" as const],
      permissions: ["secrets.read"],
    };
    const faults = scopeFaults(holder, ["owner", "member", "secrets.read", "secrets.write", "everything"]);
    expect(faults.map(({ message }) => message.split(" ")[0])).to.deep.equal([
      "owner",
      "secrets.write",
      "everything",
    ]);
  });

  it("is read as words with spaces between; offline_access alone narrows nothing", () => {
    expect(scopeOf(undefined)).to.deep.equal({ scope: null, offline: false });
    expect(scopeOf("offline_access")).to.deep.equal({ scope: null, offline: true });
    expect(scopeOf(" member  offline_access member ")).to.deep.equal({ scope: ["member"], offline: true });
    const holder = { tenant_id: "a", subject: "user:u", roles: ["member" as const], permissions: ["a.b"] };
    expect(scopeText(holder, true)).to.equal("member a.b offline_access");
  });
});
