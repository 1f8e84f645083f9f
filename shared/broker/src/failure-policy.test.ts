import { errorCodes, MusterError, type ErrorCode } from "@muster/contracts/errors";
import { expect } from "chai";
import { dependencyAttemptsMax, errorKindOf, fateOf, type ErrorKind, type Fate } from "./failure-policy.ts";

const ladder = { tiers: ["1s", "10s", "1m"] } as const;
const dead: Fate = { kind: "dead-letter" };
const drop: Fate = { kind: "drop" };
const retry = (tier: "1s" | "10s" | "1m"): Fate => ({ kind: "retry", tier });

describe("the fate of a failed message", () => {
  const table: readonly [ErrorKind, number, Fate][] = [
    ["passing", 1, retry("1s")],
    ["passing", 2, retry("10s")],
    ["passing", 3, retry("1m")],
    ["passing", 4, dead],
    ["passing", 1_000, dead],
    ["dependency", 1, retry("1s")],
    ["dependency", 3, retry("1m")],
    ["dependency", 4, retry("1m")],
    ["dependency", dependencyAttemptsMax - 1, retry("1m")],
    ["dependency", dependencyAttemptsMax, dead],
    ["permanent", 1, dead],
    ["permanent", 3, dead],
    ["stale", 1, drop],
    ["stale", 1_000, drop],
  ];
  for (const [kind, attempt, fate] of table) {
    it(`${kind} at attempt ${attempt}: ${JSON.stringify(fate)}`, () => {
      expect(fateOf(kind, attempt, ladder)).to.deep.equal(fate);
    });
  }

  it("never retries without a ladder", () => {
    for (const kind of ["passing", "dependency", "permanent"] as const) {
      expect(fateOf(kind, 1, { tiers: [] })).to.deep.equal(dead);
    }
  });
});

describe("the kind of an error", () => {
  const expected: Partial<Record<ErrorCode, ErrorKind>> = {
    TOO_LATE: "stale",
    STALE_TOKEN: "stale",
    AGENT_SUPERSEDED: "stale",
    DEPENDENCY_UNAVAILABLE: "dependency",
    BACKPRESSURE: "dependency",
    DEADLINE_EXCEEDED: "dependency",
    DRAINING: "dependency",
    INTERNAL: "passing",
    RATE_LIMITED: "passing",
    VM_QUEUE_FULL: "passing",
    VAULT_UNAVAILABLE: "passing",
    SEALING_KEY_UNKNOWN: "passing",
  };
  for (const code of Object.keys(errorCodes) as ErrorCode[]) {
    it(`${code}: ${expected[code] ?? "permanent"}`, () => {
      expect(errorKindOf(new MusterError(code))).to.equal(expected[code] ?? "permanent");
    });
  }

  it("takes lost connections and a database that is not there for dependencies, through their causes", () => {
    const refused = Object.assign(new Error("connect"), { code: "ECONNREFUSED" });
    expect(errorKindOf(refused)).to.equal("dependency");
    expect(errorKindOf(new Error("query failed", { cause: refused }))).to.equal("dependency");
    expect(errorKindOf(Object.assign(new Error("x"), { parent: { code: "57P01" } }))).to.equal("dependency");
    expect(errorKindOf(Object.assign(new Error("deadlock"), { code: "40P01" }))).to.equal("passing");
  });

  it("takes everything else for passing, whatever was thrown", () => {
    const circular: { cause?: unknown } = {};
    circular.cause = circular;
    for (const thrown of [new TypeError("x"), "text", undefined, null, 7, circular]) {
      expect(errorKindOf(thrown)).to.equal("passing");
    }
  });
});
