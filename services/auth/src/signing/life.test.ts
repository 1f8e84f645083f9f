import { expect } from "chai";
import fc from "fast-check";
import { askedRotation, dueStep, revokedKeptMs, rotationOf } from "./life.ts";
import type { KeyFacts, KeyStep } from "./life.ts";

const life = { rotationMs: 1_000, publishAheadMs: 100 };
const blank = { activatedAtMs: null, rotationAskedAtMs: null, verifyUntilMs: null, revokedAtMs: null };
const next = (createdAtMs: number): KeyFacts => ({ ...blank, kid: "next", status: "next", createdAtMs });
const active = (activatedAtMs: number, rotationAskedAtMs: number | null = null): KeyFacts => ({
  ...{ ...blank, kid: "active", status: "active", createdAtMs: activatedAtMs - 500 },
  ...{ activatedAtMs, rotationAskedAtMs },
});
const retired = (verifyUntilMs: number): KeyFacts => ({
  ...{ ...blank, kid: "retired", status: "retired", createdAtMs: 0, activatedAtMs: 1, verifyUntilMs },
});
const revoked = (revokedAtMs: number): KeyFacts => ({
  ...{ ...blank, kid: "revoked", status: "revoked", createdAtMs: 0, revokedAtMs },
});

const rotated: KeyStep = { kind: "rotate", from: "active", to: "next" };

describe("what is due in the life of signing keys", () => {
  const cases: [string, KeyFacts[], number, KeyStep | undefined][] = [
    ["nothing there: a key that signs", [], 0, { kind: "make", status: "active" }],
    ["none next: one that is published", [active(0)], 5_000, { kind: "make", status: "next" }],
    [
      "none active: the next one signs at once",
      [next(0)],
      0,
      { kind: "rotate", from: undefined, to: "next" },
    ],
    ["within the interval: nothing", [active(0), next(0)], 999, undefined],
    ["at the interval's end: the next one signs", [active(0), next(0)], 1_000, rotated],
    ["the next one too fresh: not yet", [active(0), next(950)], 1_049, undefined],
    ["the next one published for long enough: now", [active(0), next(950)], 1_050, rotated],
    ["asked for: before the interval's end", [active(0, 300), next(0)], 300, rotated],
    ["asked for, the next one too fresh: not yet", [active(0, 300), next(250)], 349, undefined],
    ["asked for, and published for long enough: now", [active(0, 300), next(250)], 350, rotated],
    ["a retired key with living tokens: it stays", [active(0), next(0), retired(500)], 499, undefined],
    [
      "a retired key without: it goes",
      [active(0), next(0), retired(500)],
      500,
      { kind: "remove", kids: ["retired"] },
    ],
    ["a revoked key: it is remembered", [active(0), next(0), revoked(0)], 999, undefined],
  ];
  for (const [what, keys, nowMs, step] of cases) {
    it(what, () => expect(dueStep(keys, nowMs, life)).to.deep.equal(step));
  }

  it("forgets a revoked key after its time", () => {
    const slow = { ...life, rotationMs: 2 * revokedKeptMs };
    const keys = [active(0), next(0), revoked(0)];
    expect(dueStep(keys, revokedKeptMs - 1, slow)).to.equal(undefined);
    expect(dueStep(keys, revokedKeptMs, slow)).to.deep.equal({ kind: "remove", kids: ["revoked"] });
  });

  it("never lets a key sign that was not published for long enough, nor later than it must", () => {
    const time = fc.integer({ min: 0, max: 5_000 });
    const asked = fc.option(time);
    fc.assert(
      fc.property(time, time, asked, time, (activatedAtMs, createdAtMs, askedAtMs, nowMs) => {
        const keys = [active(activatedAtMs, askedAtMs), next(createdAtMs)];
        const isDue = dueStep(keys, nowMs, life)?.kind === "rotate";
        const known = nowMs - createdAtMs >= life.publishAheadMs;
        const wanted = nowMs - activatedAtMs >= life.rotationMs || (askedAtMs !== null && askedAtMs <= nowMs);
        expect(isDue).to.equal(known && wanted);
        expect(isDue).to.equal((rotationOf(keys, life) ?? Infinity) <= nowMs);
      }),
    );
  });
});

describe("a request for a rotation", () => {
  it("is remembered once, and is answered with the rotation that was just made", () => {
    expect(askedRotation([active(0), next(0)], 100, life)).to.equal("remember");
    expect(askedRotation([active(0, 50), next(0)], 100, life)).to.equal("none");
    expect(askedRotation([active(1), next(0)], 100, life)).to.equal("none");
  });
});
