import { expect } from "chai";
import { outcomeOf } from "./outcome.ts";
import type { Exit } from "./run-folder.ts";

const totals = { bytes_total: 0, bytes_kept: 0, truncated: false, sha256: "0".repeat(64) };
const ended: Exit = {
  code: 0,
  signal: null,
  runMs: 5,
  stopped: null,
  spawnError: null,
  output: { stdout: totals, stderr: totals },
};

describe("the outcome of an exit record", () => {
  const table: [string, Partial<Exit>, boolean, string, string, string][] = [
    ["exit 0", {}, false, "succeeded", "completed", "applied"],
    ["exit 0 although a cancel was asked for", {}, true, "succeeded", "completed", "applied"],
    ["another exit code", { code: 3 }, false, "failed", "exit_nonzero", "unknown"],
    ["a signal", { code: null, signal: "SIGSEGV" }, false, "failed", "killed_by_signal", "unknown"],
    [
      "a program that could not be started",
      { code: null, spawnError: "no" },
      false,
      "failed",
      "start_failed",
      "none",
    ],
    ["the timeout", { code: null, stopped: "timeout" }, false, "expired", "execution_timeout", "unknown"],
    ["a cancel", { code: null, stopped: "cancel" }, false, "cancelled", "cancelled_while_running", "unknown"],
    [
      "a cancel whose note the disk did not take",
      { stopped: "signal" },
      true,
      "cancelled",
      "cancelled_while_running",
      "unknown",
    ],
    [
      "someone else's signal to the supervisor",
      { code: null, signal: "SIGTERM", stopped: "signal" },
      false,
      "failed",
      "killed_by_signal",
      "unknown",
    ],
  ];
  for (const [what, change, cancelAsked, outcome, reason, effect] of table) {
    it(`is ${outcome}(${reason}) with effect ${effect} after ${what}`, () => {
      expect(outcomeOf({ ...ended, ...change }, cancelAsked)).to.include({ outcome, reason, effect });
    });
  }
});
