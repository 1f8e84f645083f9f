import { describe, it } from "mocha";
import { expect } from "chai";
import fc from "fast-check";
import type { Contract } from "@muster/contracts/define";
import { errorCodes } from "@muster/contracts/errors";
import { contractsOf } from "@muster/contracts/golden";
import { routes } from "@muster/contracts/routes";
import { wireSchemaOf } from "@muster/contracts/schema";
import { samplesOf } from "@muster/testing/samples";

const bodies = (contract: Contract) =>
  contract.kind === "request" || contract.kind === "report"
    ? [["payload", contract.payload] as const, ["reply", contract.reply] as const]
    : [["payload", contract.payload] as const];

describe("every contract", () => {
  it("has a name of its own", () => {
    const names = contractsOf().map((contract) => contract.name);
    expect(new Set(names).size).to.equal(names.length);
  });

  for (const contract of contractsOf()) {
    describe(contract.name, () => {
      for (const [side, schema] of bodies(contract)) {
        const wire = wireSchemaOf(schema);

        it(`accepts every ${side} that its published schema allows`, () => {
          fc.assert(
            fc.property(samplesOf(wire), (value) => {
              const parsed = schema.safeParse(value);
              expect(parsed.error?.issues ?? []).to.deep.equal([]);
            }),
            { numRuns: 12 },
          );
        });

        it(`understands a ${side} of a newer minor version, which has one field more`, () => {
          if (wire.type !== "object") return;
          fc.assert(
            fc.property(samplesOf(wire), (value) => {
              const newer = { ...(value as object), added_later: { deep: [1, "two"] } };
              expect(schema.safeParse(newer).success).to.equal(true);
            }),
            { numRuns: 3 },
          );
        });

        it(`names the path of each required field that a ${side} lacks`, () => {
          const required = (wire.required ?? []) as string[];
          const [value] = fc.sample(samplesOf(wire), { numRuns: 1, seed: 7 });
          for (const field of required) {
            const { [field]: _removed, ...lacking } = value as Record<string, unknown>;
            const parsed = schema.safeParse(lacking);
            expect(parsed.success, field).to.equal(false);
            expect(parsed.error!.issues.some((issue) => issue.path[0] === field)).to.equal(true);
          }
        });

        it(`refuses any other JSON as a ${side} without throwing`, () => {
          fc.assert(
            fc.property(
              fc.oneof(fc.string(), fc.integer(), fc.constant(null), fc.array(fc.anything())),
              (value) => {
                expect(schema.safeParse(value).success).to.equal(false);
              },
            ),
            { numRuns: 20 },
          );
        });
      }

      it("says what it is for, within a bound", () => {
        expect(contract.summary).to.match(/^[A-Z].{10,160}\.$/);
        expect(contract.payloadBytesMax).to.be.greaterThan(0);
      });
    });
  }
});

describe("every route", () => {
  const all = Object.entries(routes);

  it("has a method and path of its own", () => {
    const keys = all.map(([, route]) => `${route.method} ${route.path}`);
    expect(new Set(keys).size).to.equal(keys.length);
  });

  for (const [key, route] of all) {
    it(`${key} declares who may call it and only known codes`, () => {
      expect(route.access).to.be.oneOf(["public", "credentials", "any", "member", "admin", "owner"]);
      for (const code of route.codes) expect(errorCodes).to.have.property(code);
      expect(route.summary).to.match(/^[A-Z].{5,160}\.$/);
    });
  }
});
