import { roles } from "@muster/contracts/principal";
import { expect } from "chai";
import fc from "fast-check";
import { grantFaults, highestOf, isAbove, lowerOf, mayChange, mayHoldKeyOf, scopesOf } from "./rules.ts";

const role = fc.constantFrom(...roles);
const permissions = fc.subarray(["secrets.read", "approvals.review.prod", "approvals.review.nonprod"]);
const rank = fc.record({ role, permissions });
const optional = <T>(values: fc.Arbitrary<T>) => fc.option(values, { nil: undefined });

describe("what accounts may give and do to each other", () => {
  it("never lets anybody give a role above his own", () => {
    fc.assert(
      fc.property(rank, role, (giver, given) => {
        expect(grantFaults(giver, { role: given }).length > 0).to.equal(isAbove(given, giver.role));
      }),
    );
  });

  it("lets only an owner give a permission that he does not hold himself", () => {
    fc.assert(
      fc.property(rank, permissions, (giver, given) => {
        const all = giver.role === "owner" || given.every((one) => giver.permissions.includes(one));
        expect(grantFaults(giver, { permissions: given }).length === 0).to.equal(all);
      }),
    );
  });

  it("makes no key that carries more than its maker had, nor than was asked for", () => {
    const asked = fc.record({ role_max: optional(role), permissions: optional(permissions) });
    fc.assert(
      fc.property(rank, rank, asked, (maker, holder, wanted) => {
        const made = scopesOf(maker, holder, wanted);
        expect(isAbove(made.role_max, maker.role)).to.equal(false);
        if (wanted.role_max !== undefined) expect(isAbove(made.role_max, wanted.role_max)).to.equal(false);
        const bound = wanted.permissions ?? holder.permissions;
        expect(made.permissions.every((one) => bound.includes(one))).to.equal(true);
        if (maker.role !== "owner") expect(maker.permissions).to.include.members(made.permissions);
      }),
    );
  });

  it("lets nobody hold a key of a user who is his equal or above him, himself excepted", () => {
    const maker = (held: (typeof roles)[number]) => ({ role: held, permissions: [], principalId: "a" });
    for (const mine of roles) {
      for (const theirs of roles) {
        const user = { id: "b", kind: "user", role: theirs } as const;
        expect(mayHoldKeyOf(maker(mine), user)).to.equal(mine !== "member" && isAbove(mine, theirs));
        const account = { id: "c", kind: "service-account", role: theirs } as const;
        expect(mayHoldKeyOf(maker(mine), account)).to.equal(mine !== "member" && !isAbove(theirs, mine));
        expect(mayHoldKeyOf(maker(mine), { ...user, id: "a" })).to.equal(true);
      }
    }
  });

  it("lets nobody change an account above his own", () => {
    expect(mayChange({ role: "admin", permissions: [] }, "owner")).to.equal(false);
    expect(mayChange({ role: "admin", permissions: [] }, "admin")).to.equal(true);
  });

  it("finds the highest and the lower of roles, and none where none is held", () => {
    expect(highestOf([])).to.equal(undefined);
    expect(highestOf(["member", "owner", "admin"])).to.equal("owner");
    expect(lowerOf("owner", "member")).to.equal("member");
  });
});
