import { describe, it } from "mocha";
import { expect } from "chai";
import type { CommandFacts, JournalAttempt } from "./facts.ts";
import { judge, type Asked, type Evidence } from "./judge.ts";
import { readLifeTable, type Step } from "./life-table.ts";

const id = "c1";
const step = (from: string | null, to: string, rule: string, attempt = 1): Step => ({
  ...{ from, to, rule, attempt },
});
const path = [
  step(null, "queued", "accepted"),
  step("queued", "dispatched", "doorbell_confirmed"),
  step("dispatched", "running", "claim_granted"),
  step("running", "succeeded", "result_succeeded"),
];
const command: CommandFacts = {
  ...{ id, key: "k", state: "succeeded", phase: "ended", reason: "completed", effect: "applied" },
  ...{ attempt: 1, exit_code: 0, steps: path },
};
const row: JournalAttempt = {
  ...{ home: "h", command_id: id, attempt: 1, state: "acked", starts: 1, output_done: 1 },
};
const start = { key: "k", commandId: id, attempt: 1 };

function setup(): { asked: Asked; evidence: Evidence } {
  return {
    asked: { key: "k", order: { vmUuid: "v" }, ids: new Set([id]), cancelled: false, refused: undefined },
    evidence: { commands: [command], journal: [row], starts: [start] },
  };
}

function faults(asked: Partial<Asked>, evidence: Partial<Evidence>): string {
  const right = setup();
  const table = readLifeTable();
  return judge({ ...right.asked, ...asked }, { ...right.evidence, ...evidence }, table, []).join("\n");
}

const changed = (change: Partial<CommandFacts>): Partial<Evidence> => ({
  commands: [{ ...command, ...change }],
});

describe("the judge of what became of a request", () => {
  it("finds nothing where nothing is wrong", () => {
    expect(faults({}, {})).to.equal("");
  });

  it("finds what is lost, doubled or was refused and yet is there", () => {
    expect(faults({}, { commands: [] })).to.match(/accepted and is lost/);
    expect(faults({ ids: new Set(["c1", "c2"]) }, {})).to.match(/more than one command/);
    expect(faults({}, { commands: [command, command] })).to.match(/more than one command on record/);
    expect(faults({ ids: new Set(), refused: "X" }, {})).to.match(/was refused \(X\) and is on record/);
    expect(faults({ ids: new Set(["c2"]) }, {})).to.match(/is on record as c1/);
  });

  it("finds a second start in one attempt or another, and one that no journal or claim knows", () => {
    expect(faults({}, { starts: [start, start] })).to.match(/started 2 times/);
    expect(faults({}, { starts: [start, { ...start, attempt: 2 }] })).to.match(/started 2 times/);
    expect(faults({}, { journal: [{ ...row, starts: 2 }] })).to.match(/2 starts in a journal/);
    expect(faults({}, { journal: [{ ...row, starts: 0 }] })).to.match(/no journal says so/);
    expect(faults({}, { starts: [{ ...start, attempt: 2 }] })).to.match(/started under 0 claims/);
  });

  it("finds an effect, an exit code or an end that is not the truth", () => {
    expect(faults({}, changed({ effect: "none" }))).to.match(/had no effect and was started/);
    expect(faults({}, { starts: [] })).to.match(/ran to its end and was never started/);
    expect(faults({}, changed({ exit_code: 1 }))).to.match(/exit code 1, not 0/);
    expect(faults({}, changed({ reason: "late_result" }))).to.match(/ended as succeeded:late_result/);
    expect(faults({}, changed({ phase: "running" }))).to.match(/has not ended/);
  });

  it("finds a gap, an illegal step and a miscounted attempt in a history", () => {
    const without = (index: number): Step[] => path.filter((_, at) => at !== index);
    expect(faults({}, changed({ steps: [] }))).to.match(/has no history/);
    expect(faults({}, changed({ steps: without(1) }))).to.match(/gap in its history/);
    expect(faults({}, changed({ steps: without(3) }))).to.match(/its history ends in running/);
    const back = [...without(3), step("running", "queued", "requeue", 2)];
    expect(faults({}, changed({ steps: back }))).to.match(/illegal step: running>queued by requeue/);
    const again = [...without(3), step("running", "queued", "result_abandoned", 1)];
    expect(faults({}, changed({ steps: again }))).to.match(/counts its attempts wrongly/);
  });

  it("finds what an agent still has to tell", () => {
    expect(faults({}, { journal: [{ ...row, state: "finished" }] })).to.match(/still finished in a journal/);
    expect(faults({}, { journal: [{ ...row, output_done: 0 }] })).to.match(/still has output to send/);
  });
});
