import { expect } from "chai";
import { abandonsMax, eventOfResult } from "./result-event.ts";
import type { ReportedEnd } from "./result-event.ts";

const row = { desired: "run", reason: "claimed", abandons: 0, state: "running" } as const;
const end = (outcome: ReportedEnd["outcome"], reason: ReportedEnd["reason"] = "completed"): ReportedEnd => ({
  ...{ outcome, reason, effect: "partial" },
});

describe("the event of a result", () => {
  it("keeps the reasons of failures that agents may give, and no other", () => {
    expect(eventOfResult(end("failed", "killed_by_signal"), row)).to.include({ reason: "killed_by_signal" });
    expect(eventOfResult(end("failed", "secret_refused"), row)).to.include({ reason: "secret_refused" });
    expect(eventOfResult(end("failed", "gate_refused"), row)).to.include({ reason: "supervisor_lost" });
  });

  it("takes the reason to stop from the record, not from the agent", () => {
    const stopped = end("cancelled", "cancelled_while_running");
    const because = (reason: "cancel_requested" | "execution_timeout" | "target_gone") =>
      eventOfResult(stopped, { ...row, desired: "cancel", reason });
    expect(because("cancel_requested")).to.include({
      event: "result_cancelled",
      reason: "cancelled_while_running",
    });
    expect(because("execution_timeout")).to.include({ event: "result_expired" });
    expect(because("target_gone")).to.include({ event: "result_cancelled", reason: "target_gone" });
  });

  it("does not put back what was abandoned while it was to stop", () => {
    const abandoned = end("abandoned", "abandoned");
    expect(eventOfResult(abandoned, row).event).to.equal("result_abandoned");
    const stopping = { ...row, desired: "cancel", reason: "cancel_requested" } as const;
    expect(eventOfResult(abandoned, stopping)).to.include({
      event: "result_cancelled",
      reason: "cancelled_before_start",
    });
  });

  it("puts back what never started before its time was over: nobody asked for its end", () => {
    const overdue = { ...row, desired: "cancel", reason: "execution_timeout" } as const;
    expect(eventOfResult(end("abandoned", "abandoned"), overdue).event).to.equal("result_abandoned");
  });

  it("gives up what is abandoned over and over", () => {
    const abandoned = end("abandoned", "abandoned");
    expect(eventOfResult(abandoned, { ...row, abandons: abandonsMax }).event).to.equal("abandons_exhausted");
  });
});
