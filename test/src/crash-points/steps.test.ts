import { describe, it } from "mocha";
import { expect } from "chai";
import { commitsOf, writesOf } from "./of-database.ts";
import { Worklist } from "./sweep.ts";

describe("the steps of a process", () => {
  it("are named by what a transaction writes, says and decides, and by nothing that it reads or locks", () => {
    expect(writesOf("SELECT 1 FROM commands c FOR NO KEY UPDATE OF c SKIP LOCKED", [])).to.deep.equal([]);
    expect(writesOf("SELECT id FROM outbox FOR UPDATE SKIP LOCKED", undefined)).to.deep.equal([]);
    const upsert = "INSERT INTO liveness AS l VALUES (1) ON CONFLICT DO UPDATE SET a = 1";
    expect(writesOf(upsert, [])).to.deep.equal(["insert:liveness"]);
    const written = writesOf("INSERT INTO outbox (type) VALUES ($1)", [["vm-ops.command.finished.v1"]]);
    expect(written).to.have.members(["insert:outbox", "vm-ops.command.finished.v1"]);
    const moved = writesOf("WITH given AS (SELECT 1) UPDATE commands c SET x = 1", [
      '[{"rule":"claim_granted"}]',
    ]);
    expect(moved).to.have.members(["update:commands", "rule:claim_granted"]);
  });

  it("of one commit are its transitions, each by itself, or all that it writes", () => {
    const writes = ["update:commands", "rule:result_failed", "insert:outbox", "rule:claim_granted"];
    expect(commitsOf(writes)).to.deep.equal(["commit claim_granted", "commit result_failed"]);
    expect(commitsOf(["update:vms", "insert:liveness"])).to.deep.equal(["commit insert:liveness update:vms"]);
  });

  it("become points once each, also those that only a crash brought about", () => {
    const work = new Worklist({ occurrences: 1, cuts: false });
    work.add(["commit a", "publish b"]);
    const points = [work.next(), work.next(), work.next(), work.next()];
    expect(points.map((point) => point && `${point.side} ${point.step}`)).to.deep.equal([
      ...["before commit a", "after commit a", "before publish b", undefined],
    ]);
    work.add(["commit a", "commit c"]);
    expect(work.waiting).to.have.length(2);
    expect(work.next()).to.include({ step: "commit c", side: "before" });
    for (const point of work.waiting) work.settle(point, true);
    expect(work.waiting).to.deep.equal([]);
    expect(work.done).to.deep.equal(["kill after commit c #1"]);
    expect(work.steps).to.equal(3);
  });
});
