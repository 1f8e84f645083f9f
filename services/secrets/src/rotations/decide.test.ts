import type { ErrorCode } from "@muster/contracts/errors";
import { expect } from "chai";
import { describe, it } from "mocha";
import { isRefusal, judge, sendAgainAfterMs } from "./decide.ts";
import type { Judged, Verdict } from "./decide.ts";

type FollowUp = Judged["followUps"][number];

const succeeded: FollowUp = { bindingId: "succeeded", state: "succeeded", effect: "applied" };
const half: FollowUp = { bindingId: "half", state: "failed", effect: "partial" };
const unseen: FollowUp = { bindingId: "unseen", state: "failed", effect: "unknown" };
const unstarted: FollowUp = { bindingId: "unstarted", state: "failed", effect: "none" };
const pending: FollowUp = { bindingId: "pending", state: "pending", effect: null };
const running: FollowUp = { bindingId: "running", state: "running", effect: null };
const skipped: FollowUp = { bindingId: "skipped", state: "skipped", effect: null };

const asked = (followUps: FollowUp[], more: Partial<Judged> = {}): Verdict =>
  judge({ state: "running", rollback: true, superseded: false, followUps, ...more });
const ended = (state: "succeeded" | "failed" | "rolled_back", reason: string | null = null) => ({
  ...{ kind: "end", state, reason },
});

describe("the verdict on a rotation", () => {
  const back = { state: "rolling_back" } as const;
  const stays = { rollback: false };
  const superseded = { superseded: true };
  const table: [string, FollowUp[], Partial<Judged>, object][] = [
    ["all well", [succeeded, succeeded], {}, ended("succeeded")],
    ["one runs", [succeeded, running], {}, { kind: "wait" }],
    ["one runs and one failed", [half, running], {}, { kind: "wait" }],
    ["one waits", [succeeded, pending], {}, { kind: "wait" }],
    ["one waits and one failed", [half, pending], {}, { kind: "skip" }],
    ["one waits and one failed, and it stays", [half, pending], stays, { kind: "wait" }],
    ["one failed, and it stays", [half, succeeded], stays, ended("failed", "follow_up_failed")],
    [
      "some failed",
      [succeeded, half, unseen, unstarted, skipped],
      {},
      { kind: "roll_back", resend: ["succeeded", "half", "unseen"] },
    ],
    ["none began", [unstarted, skipped], {}, { kind: "roll_back", resend: [] }],
    ["superseded, one waits", [succeeded, pending], superseded, { kind: "skip" }],
    ["superseded, one runs", [half, running], superseded, { kind: "wait" }],
    ["superseded, one failed", [half], superseded, ended("failed", "superseded")],
    ["superseded, one skipped", [succeeded, skipped], superseded, ended("failed", "superseded")],
    ["superseded, all well", [succeeded], superseded, ended("succeeded")],
    ["back, all well", [succeeded], back, ended("rolled_back", "follow_up_failed")],
    ["back, one failed", [succeeded, half], back, ended("failed", "rollback_failed")],
    ["back, one failed and one waits", [half, pending], back, { kind: "wait" }],
    ["back, superseded, one waits", [pending], { ...back, superseded: true }, { kind: "skip" }],
    ["back, superseded, one failed", [half], { ...back, superseded: true }, ended("failed", "superseded")],
  ];
  for (const [what, followUps, more, verdict] of table)
    it(`is ${JSON.stringify(verdict)}: ${what}`, () => {
      expect(asked(followUps, more)).to.deep.equal(verdict);
    });
});

describe("a follow-up that could not be sent", () => {
  const hour = 3_600_000;
  const again = (code: ErrorCode, tries = 1, ageMs = 0) => sendAgainAfterMs({ code, tries, ageMs });

  it("is sent again ever later, for an hour, where the reason may pass", () => {
    expect([1, 2, 3, 7, 100].map((tries) => again("VM_QUEUE_FULL", tries))).to.deep.equal([
      ...[1_000, 2_000, 4_000, 60_000, 60_000],
    ]);
    for (const code of ["VM_QUEUE_FULL", "DEPENDENCY_UNAVAILABLE", "INTERNAL"] as const) {
      expect(again(code, 1, hour - 1), code).to.be.a("number");
      expect(again(code, 1, hour), code).to.equal(undefined);
    }
    for (const code of ["VM_RETIRED", "VM_NOT_FOUND", "ACTION_NOT_SUPPORTED"] as const)
      expect(again(code), code).to.equal(undefined);
  });

  it("is known not to be there only where vm-ops said so after it looked for it", () => {
    for (const code of ["VM_RETIRED", "VM_QUEUE_FULL", "VALIDATION_FAILED"] as const)
      expect(isRefusal(code), code).to.equal(true);
    for (const code of ["BACKPRESSURE", "DEADLINE_EXCEEDED", "DEPENDENCY_UNAVAILABLE", "INTERNAL"] as const)
      expect(isRefusal(code), code).to.equal(false);
  });
});
