import { roles } from "@muster/contracts/principal";
import { claimPath } from "@muster/contracts/issuers";
import { expect } from "chai";
import fc from "fast-check";
import { isAbove } from "../accounts/rules.ts";
import { claimAt, meantBy, nameBy, rankBy } from "./claims.ts";
import type { TrustedIssuer } from "./claims.ts";

const entry = (more: Partial<TrustedIssuer> = {}): TrustedIssuer => ({
  id: "1",
  tenantId: "acme",
  issuer: "https://login.example.org",
  audience: "muster",
  jwksUri: null,
  algorithms: ["RS256"],
  tenantClaim: null,
  rolesClaim: "roles",
  roleMap: [],
  roleMax: "admin",
  ...more,
});

describe("a claim's path", () => {
  const name = fc.string({ minLength: 1, maxLength: 20, unit: fc.constantFrom(...Array.from("ab/~.:_-01")) });

  it("leads by a pointer to whatever member it names, and nowhere else", () => {
    fc.assert(
      fc.property(fc.array(name, { minLength: 1, maxLength: 8 }), (names) => {
        const pointer = names.map((one) => `/${one.replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
        expect(claimPath.safeParse(pointer).success, pointer).to.equal(true);
        const claims = names.reduceRight<unknown>((inner, one) => ({ [one]: inner }), "here");
        expect(claimAt(claims as Record<string, unknown>, pointer)).to.equal("here");
        expect(claimAt(claims as Record<string, unknown>, `${pointer}/more`)).to.equal(undefined);
      }),
    );
  });

  it("leads by dots into objects only, and to nothing that was inherited", () => {
    const claims = { a: { b: ["x"], "": 1 }, "a.b": "flat", text: "abc" };
    expect(claimAt(claims, "a.b")).to.deep.equal(["x"]);
    expect(claimAt(claims, "/a.b")).to.equal("flat");
    for (const path of [
      "a.b.0",
      "a.c",
      "text.length",
      "toString",
      "a.constructor",
      "__proto__",
      "/__proto__/a",
    ]) {
      expect(claimAt(claims, path), path).to.equal(undefined);
    }
  });

  it("is refused where it names nothing", () => {
    const wrong = ["", ".", "a.", ".a", "a..b", "/", "//", "/a/", "/a~2", "/~", "a.b.c.d.e.f.g.h.i", "a\n"];
    for (const path of wrong) expect(claimPath.safeParse(path).success, path).to.equal(false);
    for (const path of [
      "a",
      "realm_access.roles",
      "/https:~1~1example.org~1roles",
      "resource_access.my-app.roles",
    ]) {
      expect(claimPath.safeParse(path).success, path).to.equal(true);
    }
  });
});

describe("what an issuer's word is worth", () => {
  const role = fc.constantFrom(...roles);
  const words = ["a", "b", "c", "d"];
  const permissions = fc.subarray(["secrets.read", "approvals.review.prod"]);
  const map = fc.array(fc.record({ value: fc.constantFrom(...words), role, permissions }), { maxLength: 6 });

  it("is never more than what is mapped, never above the highest that it may give, and nothing where nothing fits", () => {
    fc.assert(
      fc.property(map, role, fc.subarray([...words, "e"]), (roleMap, roleMax, values) => {
        const fitting = roleMap.filter(({ value }) => values.includes(value));
        const rank = rankBy({ rolesClaim: "roles", roleMap, roleMax }, { roles: values });
        if (fitting.length === 0) return void expect(rank).to.equal(undefined);
        expect(isAbove(rank!.role, roleMax)).to.equal(false);
        expect(fitting.some((one) => !isAbove(rank!.role, one.role))).to.equal(true);
        for (const one of fitting) {
          expect(rank!.role === roleMax || !isAbove(one.role, rank!.role)).to.equal(true);
          expect(rank!.permissions).to.include.members(one.permissions);
        }
        const given = fitting.flatMap((one) => one.permissions);
        expect(given).to.include.members(rank!.permissions);
      }),
    );
  });
});

describe("the tenant that a token is for", () => {
  it("is the one that it names, before any that takes everybody, and nobody's where several may be meant", () => {
    const named = entry({ tenantClaim: "org" });
    const open = entry({ id: "2", tenantId: "open" });
    const other = entry({ id: "3", tenantId: "other" });
    const claims = { aud: "muster", org: "acme" };
    expect(meantBy([open, other, named], claims)).to.equal(named);
    expect(meantBy([named, open], { aud: "muster", org: "open" })).to.equal(open);
    expect(meantBy([open, other], claims)).to.equal("ambiguous");
    expect(meantBy([named], { aud: "muster" })).to.equal("none");
    expect(
      meantBy([named, entry({ id: "4", tenantId: "b", tenantClaim: "team" })], { ...claims, team: "b" }),
    ).to.equal("ambiguous");
  });

  it("has of its own entries the one whose audience comes first in the token", () => {
    const [app, cli] = [entry({ audience: "app" }), entry({ id: "2", audience: "cli" })];
    expect(meantBy([app, cli], { aud: ["cli", "app"] })).to.equal(cli);
    expect(meantBy([cli, app], { aud: ["app", "cli"] })).to.equal(app);
  });
});

describe("a user's name", () => {
  it("is what a person would know him by, and always one that can be kept", () => {
    expect(nameBy({ name: "Ada", email: "a@example.org" }, "s")).to.equal("Ada");
    expect(nameBy({ name: 1, email: "a@example.org" }, "s")).to.equal("a@example.org");
    expect(nameBy({ name: "  " }, "s")).to.equal("s");
    expect(nameBy({ name: "a\0\ud800b" }, "s")).to.equal("a\u{fffd}\u{fffd}b");
    expect(Array.from(nameBy({ name: "\u{1f680}".repeat(500) }, "s"))).to.have.length(128);
  });
});
