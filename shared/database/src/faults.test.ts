import { MusterError } from "@muster/contracts/errors";
import { expect } from "chai";
import { CommitUnknownError, faultKind, publicFault, sqlState, violatedConstraint } from "./faults.ts";

const coded = (code: string, more: object = {}) =>
  Object.assign(new Error("by the driver"), { code, ...more });
const wrapped = (original: Error, name = "SequelizeDatabaseError") =>
  Object.assign(new Error("by the mapper"), { name, original });

describe("faults of the database", () => {
  const kinds: readonly [string, unknown, ReturnType<typeof faultKind>, string | undefined][] = [
    ["a deadlock", coded("40P01"), "contention", "DEPENDENCY_UNAVAILABLE"],
    ["a serialization failure, wrapped", wrapped(coded("40001")), "contention", "DEPENDENCY_UNAVAILABLE"],
    ["a statement timeout", coded("57014"), "timeout", "DEPENDENCY_UNAVAILABLE"],
    ["a server that shuts down", coded("57P01"), "lost", "DEPENDENCY_UNAVAILABLE"],
    ["a refused socket", coded("ECONNREFUSED"), "lost", "DEPENDENCY_UNAVAILABLE"],
    ["a protocol fault", coded("08P01"), "lost", "DEPENDENCY_UNAVAILABLE"],
    ["a full disk", coded("53100"), "lost", "DEPENDENCY_UNAVAILABLE"],
    ["a lost connection", new Error("Connection terminated unexpectedly"), "lost", "DEPENDENCY_UNAVAILABLE"],
    [
      "an exhausted pool",
      Object.assign(new Error("x"), { name: "SequelizeConnectionAcquireTimeoutError" }),
      "exhausted",
      "BACKPRESSURE",
    ],
    ["a unique violation", coded("23505"), "other", undefined],
    ["something that is not an error", "text", "other", undefined],
  ];
  for (const [what, error, kind, code] of kinds) {
    it(`sorts ${what} as ${kind}`, () => {
      expect(faultKind(error)).to.equal(kind);
      const seen = publicFault(error);
      if (code === undefined) expect(seen).to.equal(error);
      else expect(seen).to.be.instanceOf(MusterError).and.include({ code, cause: error });
    });
  }

  it("passes an error on that is public already", () => {
    const unknown = new CommitUnknownError(coded("57P01"));
    expect(publicFault(unknown)).to.equal(unknown);
    expect(faultKind(unknown)).to.equal("other");
  });

  it("names the constraint that refused a write, through the mapper too", () => {
    expect(violatedConstraint(coded("23505", { constraint: "vms_pkey" }))).to.equal("vms_pkey");
    expect(violatedConstraint(wrapped(coded("23514", { constraint: "positive" })))).to.equal("positive");
    expect(violatedConstraint(coded("23502"))).to.equal("");
    expect(violatedConstraint(coded("40001"))).to.equal(undefined);
    expect(sqlState(wrapped(coded("23514")))).to.equal("23514");
    expect(sqlState(coded("ECONNRESET"))).to.equal(undefined);
  });
});
