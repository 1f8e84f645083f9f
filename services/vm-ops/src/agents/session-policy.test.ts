import { expect } from "chai";
import { judgeHello } from "./session-policy.ts";
import type { Hello, HelloVerdict, KnownSession } from "./session-policy.ts";

const known: KnownSession = {
  generation: 5,
  usedGeneration: 5,
  sessionId: "018f0000-0000-7000-8000-000000000005",
  journalId: "journal",
  journalSeq: 100,
  ageMs: 600_000,
  quarantineReason: null,
  released: false,
};
const next: Hello = {
  sessionId: "018f0000-0000-7000-8000-000000000006",
  journalId: "journal",
  journalSeq: 101,
  lastGeneration: 5,
};

describe("judging a hello", () => {
  const cases: readonly [string, Partial<KnownSession>, Partial<Hello>, Partial<HelloVerdict>][] = [
    ["accepts the next session", {}, {}, { kind: "accepted", generation: 6 }],
    ["knows the same session again", {}, { sessionId: known.sessionId }, { kind: "same" }],
    [
      "accepts a fresh installation",
      {},
      { journalId: "new", journalSeq: 0, lastGeneration: 0 },
      { kind: "accepted", generation: 6 },
    ],
    ["quarantines a foreign journal", {}, { journalId: "other" }, { kind: "quarantine" }],
    ["quarantines a journal that ran backwards", {}, { journalSeq: 99 }, { kind: "quarantine" }],
    ["quarantines a generation that ran backwards", {}, { lastGeneration: 4 }, { kind: "quarantine" }],
    [
      "forgives a generation that the agent never learned of",
      { usedGeneration: 4 },
      { lastGeneration: 4 },
      { kind: "accepted", generation: 6 },
    ],
    [
      "goes on from a generation that an older database has lost",
      {},
      { lastGeneration: 9 },
      { kind: "accepted", generation: 10 },
    ],
    ["stays in quarantine", { quarantineReason: "a clone" }, {}, { kind: "quarantine", reason: "a clone" }],
    [
      "ends a quarantine by a fresh installation",
      { quarantineReason: "a clone" },
      { journalId: "new", lastGeneration: 0 },
      { kind: "accepted", generation: 6 },
    ],
    [
      "passes over an older hello that was overtaken",
      { ageMs: 1_000 },
      { sessionId: "018f0000-0000-7000-8000-000000000004", journalSeq: 90, lastGeneration: 4 },
      { kind: "overtaken" },
    ],
    [
      "believes a clock that was set back, after a while",
      {},
      { sessionId: "018f0000-0000-7000-8000-000000000004" },
      { kind: "accepted", generation: 6 },
    ],
  ];
  for (const [name, was, hello, verdict] of cases) {
    it(name, () => expect(judgeHello({ ...known, ...was }, { ...next, ...hello })).to.include(verdict));
  }

  it("accepts an agent that is not known, behind no generation that it has seen", () => {
    expect(judgeHello(undefined, next)).to.deep.equal({ kind: "accepted", generation: 6 });
  });
});
